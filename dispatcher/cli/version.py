"""``dispatcher version``: the versions that matter in a bug report."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

import typer

from dispatcher.cli.output import emit, table

__all__ = ["command", "version_of"]

_PARTS = (
    "jetstream-dispatcher",
    "nats-py",
    "psycopg",
    "psycopg-binary",
    "SQLAlchemy",
    "pydantic",
    "alembic",
    "typer",
    "uvloop",
)


def command(json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Show the versions of the package and its parts."""
    from state.migrate import expected_revision

    versions = {"python": platform.python_version(), **{part: version_of(part) for part in _PARTS}}
    versions["schema revision"] = expected_revision()
    emit(versions, json, lambda: table(("part", "version"), list(versions.items())))


def version_of(part: str) -> str | None:
    """The version of an installed distribution, ``None`` when it is not installed."""
    try:
        return version(part)
    except PackageNotFoundError:
        return None
