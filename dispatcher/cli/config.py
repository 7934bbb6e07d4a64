"""``dispatcher config show|schema``: every setting, its value and where the value comes from; secrets masked."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import typer

from dispatcher.cli.options import (
    DatabaseUrl,
    Json,
    Namespace,
    NatsUrl,
    Schema,
    StreamsConf,
    dev_settings,
    load_settings,
    variables_of,
)
from dispatcher.cli.output import emit, note, table, to_json
from dispatcher.settings import Settings
from dispatcher.streams.units import FOREVER

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Show every setting and where its value comes from.")

# Read outside of Settings: by the frame, by processes for their --app, and by the embedded servers.
_OTHERS = frozenset(
    f"DISPATCHER_{name}" for name in ("APP", "DEBUG", "DATA_DIR", "NATS_SERVER", "PG_BINDIR", "EMBEDDED_USER")
)
_PASSWORD = re.compile(r"(?P<start>\w+://)(?P<login>[^/@]*(?:@[^/@]*)*)@")
_PARAMETER = re.compile(r"(?i)((?:password|sslpassword|passfile|token)=)('(?:\\.|[^'\\])*'|[^&\s]+)")
_MASK = "********"
_SECRET = frozenset({"database_password", "nats_password", "nats_token"})
_PLACES = (("environment", ""), ("file", "_FILE"))


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting as it is in force."""

    name: str
    value: Any
    origin: str
    """``flag``, ``environment NAME``, ``file NAME_FILE``, ``dispatcher dev`` (that of this folder) or ``default``."""
    variables: tuple[str, ...]


@app.command()
def show(
    database_url: DatabaseUrl = None,
    nats_url: NatsUrl = None,
    schema: Schema = None,
    namespace: Namespace = None,
    streams_conf: StreamsConf = None,
    json: Json = False,
) -> None:
    """Show every setting with its origin; passwords and tokens are masked."""
    flags: dict[str, Any] = {
        "database_url": database_url,
        "nats_url": nats_url,
        "db_schema": schema,
        "namespace": namespace,
        "streams_conf": streams_conf,
    }
    settings = load_settings(**flags)
    from_dev = dev_settings(flags)
    shown = [_setting(settings, name, flags.get(name) is not None, name in from_dev) for name in Settings.model_fields]
    known = _OTHERS.union(*((name, f"{name}_FILE") for item in shown for name in item.variables))
    ignored = sorted(name for name in os.environ if name.startswith("DISPATCHER_") and name not in known)
    for name in ignored:
        note(f"warning: {name} is set but no setting has that name; it is ignored")
    rows = [(item.name, item.value, item.origin) for item in shown]
    document = {"settings": {item.name: item for item in shown}, "ignored": ignored}
    emit(document, json, lambda: table(("setting", "value", "origin"), rows))


@app.command()
def schema() -> None:
    """Print the JSON schema of all settings."""
    document = Settings.model_json_schema(by_alias=False)
    for name, field in document["properties"].items():
        field["environment"] = list(variables_of(name))
    print(to_json(document, indent=2))


def _setting(settings: Settings, name: str, from_flag: bool, from_dev: bool) -> Setting:
    variables = variables_of(name)
    # pydantic-settings compares names without regard to case
    set_names = {key.upper(): key for key in os.environ}
    places = ((f"{kind} ", f"{variable}{end}") for variable in variables for kind, end in _PLACES)
    found = next((kind + set_names[place] for kind, place in places if place in set_names), None)
    elsewhere = "dispatcher dev" if from_dev else "default"
    if getattr(settings, name) is None:  # the way past a pooler does not count beside another database's flag
        found = None
    origin = "flag" if from_flag else found or elsewhere
    value = _MASK if name in _SECRET and getattr(settings, name) else getattr(settings, name)
    if isinstance(value, timedelta):
        value = "forever" if value == FOREVER else f"{value.total_seconds():.10g}s"
    elif isinstance(value, str):
        value = mask(value)
    return Setting(name, value, origin, variables)


def mask(text: str) -> str:
    """``text`` without passwords and tokens, in URLs and in ``key=value`` connection strings."""

    def login(match: re.Match[str]) -> str:
        user, colon, _ = match["login"].partition(":")
        # a lone name before the @ is a token for NATS and a user for PostgreSQL
        keep = user if colon or match["start"].startswith("postgres") else _MASK
        return f"{match['start']}{keep}{':' + _MASK if colon else ''}@"

    return _PARAMETER.sub(rf"\1{_MASK}", _PASSWORD.sub(login, text))
