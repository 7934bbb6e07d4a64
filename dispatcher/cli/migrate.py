"""``dispatcher migrate up|down|status|sql``: the tables in PostgreSQL, from the command line."""

from __future__ import annotations

from typing import Annotated

import typer

from dispatcher.cli.failures import CONFLICT
from dispatcher.cli.options import DatabaseUrl, Json, Schema, Yes, load_settings, require_database
from dispatcher.cli.output import emit, fail
from state import migrate

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Create or change the tables in PostgreSQL.")

_Wait = Annotated[
    float, typer.Option("--lock-timeout", metavar="SECONDS", min=0.001, help="How long to wait for locks.")
]
_VERDICTS = {
    "current": "fits this version of the package",
    "missing": "not created yet; run: dispatcher migrate up",
    "too_old": "older than this version of the package; run: dispatcher migrate up",
    "too_new": "newer than this version of the package; run: pip install --upgrade jetstream-dispatcher",
}


def _report(status: migrate.SchemaStatus, json: bool) -> None:
    def human() -> str:
        lines = [
            f"schema   {status.schema}",
            f"found    {status.found or '-'}",
            f"expected {status.expected}",
            f"pending  {', '.join(status.pending) or '-'}",
            f"verdict  {status.verdict}: {_VERDICTS[status.verdict]}",
        ]
        return "\n".join(lines)

    emit(status, json, human)


@app.command()
def up(
    revision: Annotated[str, typer.Argument(help="Where to go; by default the newest.")] = "head",
    database_url: DatabaseUrl = None,
    schema: Schema = None,
    lock_timeout: _Wait = migrate.LOCK_TIMEOUT,
    json: Json = False,
) -> None:
    """Bring the tables up to date, in one transaction; safe to run from many machines at once."""
    settings = load_settings(database_url=database_url, db_schema=schema).direct()
    url = require_database(settings)
    migrate.upgrade(url, settings.db_schema, revision, lock_timeout=lock_timeout)
    _report(migrate.status(url, settings.db_schema), json)


@app.command()
def down(
    revision: Annotated[str, typer.Argument(help="Where to go back to: a revision such as 0001, or base for nothing.")],
    database_url: DatabaseUrl = None,
    schema: Schema = None,
    lock_timeout: _Wait = migrate.LOCK_TIMEOUT,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Take the tables back to an older revision; data that the older one has no place for is lost."""
    settings = load_settings(database_url=database_url, db_schema=schema).direct()
    url = require_database(settings)
    before = migrate.status(url, settings.db_schema)
    if not yes:
        question = f"Take schema {settings.db_schema} back from {before.found} to {revision}? Tasks in it may be lost."
        typer.confirm(question, abort=True, err=True)
    migrate.downgrade(url, settings.db_schema, revision, lock_timeout=lock_timeout)
    _report(migrate.status(url, settings.db_schema), json)


@app.command()
def status(
    database_url: DatabaseUrl = None,
    schema: Schema = None,
    check: Annotated[bool, typer.Option("--check", help="Leave with code 4 unless the tables fit.")] = False,
    json: Json = False,
) -> None:
    """Compare the tables with this version of the package; changes nothing."""
    settings = load_settings(database_url=database_url, db_schema=schema).direct()
    found = migrate.status(require_database(settings), settings.db_schema)
    _report(found, json)
    if check and found.verdict != "current":
        raise SystemExit(CONFLICT)


@app.command()
def sql(
    revision: Annotated[str, typer.Argument(help="Where to go; by default the newest.")] = "head",
    since: Annotated[str, typer.Option("--from", metavar="REVISION", help="Where the database is now.")] = "base",
    down: Annotated[bool, typer.Option("--down", help="Print the way back instead.")] = False,
    schema: Schema = None,
    json: Json = False,
) -> None:
    """Print the SQL of a migration, for databases that only their administrators may change."""
    if down and (revision == "head" or since == "base"):
        fail("the way back needs both ends, for example: dispatcher migrate sql base --from 0001 --down", 2)
    settings = load_settings(db_schema=schema)
    text = migrate.sql(settings.db_schema, revision, since=since, down=down)
    emit({"schema": settings.db_schema, "from": since, "to": revision, "sql": text}, json, lambda: text)
