"""One SQL text, many drivers: statements are written once with ``:name`` parameters and ``{s}`` for the schema.

The text never contains data: only the schema name is put in, and it is checked against a strict pattern.
"""

from __future__ import annotations

import re
from functools import lru_cache

__all__ = ["DEFAULT_SCHEMA", "Sql", "check_schema"]

DEFAULT_SCHEMA = "dispatcher"
_SCHEMA = re.compile(r"[a-z_][a-z0-9_]{0,47}")
_PARAMETER = re.compile(r"(?<![:\w]):([a-z_][a-z0-9_]*)\b(?!:)")


def check_schema(schema: str) -> str:
    """Return ``schema`` if it can be used unquoted; raise ``ValueError`` naming the rule otherwise."""
    if not _SCHEMA.fullmatch(schema):
        raise ValueError(
            f"schema {schema!r} is not a legal name: use 1 to 48 lower-case letters, digits and underscores,"
            " not starting with a digit"
        )
    return schema


class Sql:
    """A statement with ``:name`` parameters, rendered for the driver at hand.

    >>> Sql("SELECT 1 FROM {s}.tasks WHERE id = :id").psycopg("dispatcher")
    'SELECT 1 FROM dispatcher.tasks WHERE id = %(id)b'
    """

    def __init__(self, text: str) -> None:
        self.text = text.strip()

    @lru_cache(maxsize=512)  # noqa: B019 - statements are module constants, they live as long as the process
    def psycopg(self, schema: str = DEFAULT_SCHEMA) -> str:
        """For psycopg 3: named parameters, sent in binary (arrays of ids are twice as fast that way)."""
        return _PARAMETER.sub(r"%(\1)b", self._in(schema).replace("%", "%%"))

    @lru_cache(maxsize=512)  # noqa: B019
    def sqlalchemy(self, schema: str = DEFAULT_SCHEMA) -> str:
        """For ``sqlalchemy.text``: named parameters as written."""
        return self._in(schema)

    @lru_cache(maxsize=512)  # noqa: B019
    def numbered(self, schema: str = DEFAULT_SCHEMA) -> tuple[str, tuple[str, ...]]:
        """For asyncpg and PREPARE: ``$1`` parameters, and the names in that order."""
        names: list[str] = []

        def number(match: re.Match[str]) -> str:
            if match[1] not in names:
                names.append(match[1])
            return f"${names.index(match[1]) + 1}"

        return _PARAMETER.sub(number, self._in(schema)), tuple(names)

    @lru_cache(maxsize=512)  # noqa: B019
    def formatted(self, schema: str = DEFAULT_SCHEMA) -> tuple[str, tuple[str, ...]]:
        """For DB-API drivers with ``%s`` (Django, psycopg2): a name used twice appears twice in the names."""
        names = tuple(_PARAMETER.findall(self._in(schema)))
        return _PARAMETER.sub("%s", self._in(schema).replace("%", "%%")), names

    def _in(self, schema: str) -> str:
        return self.text.replace("{s}", check_schema(schema))
