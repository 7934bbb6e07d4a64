"""``dispatcher export sql-roles|nats-auth``: least-privilege roles for both servers, on standard output."""

from __future__ import annotations

from typing import Annotated

import typer

from dispatcher.cli.options import Json, Namespace, Schema, StreamsConf, load_settings
from dispatcher.cli.output import emit
from dispatcher.errors import OptionError
from dispatcher.nats_roles import NATS_ROLES, inbox_prefix, nats_auth, password_variable
from dispatcher.streams.config import load
from state.roles import ROLES, check_prefix, role_statements

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Write least-privilege roles for PostgreSQL and NATS.")

Prefix = Annotated[str, typer.Option("--prefix", metavar="TEXT", help="What the names of the roles begin with.")]


@app.command("sql-roles")
def sql_roles(schema: Schema = None, prefix: Prefix = "dispatcher_", json: Json = False) -> None:
    """Print the SQL that makes the roles of PostgreSQL and gives them their rights; no passwords in it."""
    from state.migrations.sql_views import VIEW_NAMES

    settings = load_settings(db_schema=schema)
    text = role_statements(settings.db_schema, _legal(prefix), VIEW_NAMES)
    document = {"schema": settings.db_schema, "roles": {prefix + role: use for role, use in ROLES.items()}, "sql": text}
    emit(document, json, lambda: text.rstrip())


@app.command("nats-auth")
def nats_auth_command(
    namespace: Namespace = None, streams_conf: StreamsConf = None, prefix: Prefix = "dispatcher_", json: Json = False
) -> None:
    """Print users and permissions for nats-server's configuration file; variables stand for the passwords."""
    settings = load_settings(namespace=namespace, streams_conf=streams_conf)
    text = nats_auth(settings.namespace, load(settings.streams_conf).streams, _legal(prefix))
    users = {
        prefix + role: {
            "use": use,
            "password_variable": password_variable(prefix, role),
            "inbox_prefix": inbox_prefix(prefix, role),
        }
        for role, use in NATS_ROLES.items()
    }
    emit({"namespace": settings.namespace, "users": users, "config": text}, json, lambda: text.rstrip())


def _legal(prefix: str) -> str:
    try:
        return check_prefix(prefix)
    except ValueError as error:
        raise OptionError(f"--{error}") from None
