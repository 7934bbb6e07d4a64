"""The base of all our errors, and the errors of the bottom layer.

    DispatcherError
    └── SchemaError            the tables in the database do not fit this version of the package
        ├── SchemaMissing      nobody has made them yet
        ├── SchemaTooOld       made by an older version of the package
        ├── SchemaTooNew       made by a newer version of the package
        ├── SchemaBusy         a migration could not get its locks in time
        └── RevisionUnknown    a migration was asked for a revision that does not exist

Each message is one line and names the cure.
"""

from __future__ import annotations

from state.sql import DEFAULT_SCHEMA

__all__ = [
    "DispatcherError",
    "RevisionUnknown",
    "SchemaBusy",
    "SchemaError",
    "SchemaMissing",
    "SchemaTooNew",
    "SchemaTooOld",
]


class DispatcherError(Exception):
    """Everything our packages raise on purpose.  It lives in the bottom layer so that all layers share it."""


class SchemaError(DispatcherError):
    """The tables do not fit this package.  ``schema`` names the PostgreSQL schema, ``found`` its revision."""

    def __init__(self, message: str, schema: str, found: str | None) -> None:
        super().__init__(message)
        self.schema = schema
        self.found = found


def _migrate_up(schema: str) -> str:
    return "dispatcher migrate up" + ("" if schema == DEFAULT_SCHEMA else f" --schema {schema}")


class SchemaMissing(SchemaError):
    """The schema or its tables do not exist."""

    def __init__(self, schema: str) -> None:
        super().__init__(
            f"the database has no dispatcher tables in schema {schema}; create them with: {_migrate_up(schema)}",
            schema,
            None,
        )


class SchemaTooOld(SchemaError):
    """The tables are of an older revision than this package needs."""

    def __init__(self, schema: str, found: str, expected: str) -> None:
        super().__init__(
            f"the tables in schema {schema} are at revision {found}, this version of jetstream-dispatcher needs"
            f" {expected}; bring them up with: {_migrate_up(schema)}",
            schema,
            found,
        )
        self.expected = expected


class SchemaTooNew(SchemaError):
    """The tables are of a newer revision than this package knows."""

    def __init__(self, schema: str, found: str, expected: str) -> None:
        super().__init__(
            f"the tables in schema {schema} are at revision {found}, this version of jetstream-dispatcher knows only"
            f" {expected}; upgrade the package with: pip install --upgrade jetstream-dispatcher",
            schema,
            found,
        )
        self.expected = expected


class SchemaBusy(SchemaError):
    """A migration waited too long for its lock or for a table."""

    def __init__(self, schema: str, seconds: float) -> None:
        super().__init__(
            f"the tables in schema {schema} stayed locked for {seconds:g} s; nothing was changed; another migration or"
            f" a long transaction holds them: end it (see pg_stat_activity) and run {_migrate_up(schema)} again",
            schema,
            None,
        )


class RevisionUnknown(SchemaError):
    """The wanted revision cannot be reached from where the tables are."""

    def __init__(self, schema: str, revision: str, newest: str) -> None:
        super().__init__(
            f"there is no way to revision {revision!r}; use head, base, or a number up to {newest}",
            schema,
            None,
        )
        self.revision = revision
