"""Options that many commands share, and the one place where a command's ``Settings`` are built.

    def command(database_url: DatabaseUrl = None, schema: Schema = None, json: Json = False) -> None:
        settings = load_settings(database_url=database_url, db_schema=schema)

A flag goes before the environment, the environment before the default.  When neither names a server, those of a
``dispatcher dev`` that runs in the current folder are used.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from dispatcher.dev.beacon import found
from dispatcher.errors import ConfigurationError
from dispatcher.secret_files import variables
from dispatcher.settings import Settings

__all__ = [
    "DatabaseUrl",
    "Json",
    "LogFormat",
    "MetricsPort",
    "Namespace",
    "NatsUrl",
    "Schema",
    "StreamsConf",
    "Yes",
    "dev_settings",
    "load_settings",
    "require_database",
    "require_nats",
    "variables_of",
]

DatabaseUrl = Annotated[
    str | None,
    typer.Option("--database-url", metavar="URL", help="PostgreSQL; else DISPATCHER_DATABASE_URL, DATABASE_URL."),
]
NatsUrl = Annotated[
    str | None, typer.Option("--nats-url", metavar="URL", help="NATS servers; else DISPATCHER_NATS_URL, NATS_URL.")
]
Schema = Annotated[
    str | None, typer.Option("--schema", metavar="NAME", help="PostgreSQL schema of our tables (DISPATCHER_DB_SCHEMA).")
]
Namespace = Annotated[
    str | None,
    typer.Option("--namespace", metavar="NAME", help="First token of every NATS subject (DISPATCHER_NAMESPACE)."),
]
StreamsConf = Annotated[
    Path | None, typer.Option("--streams-conf", metavar="FILE", help="streams.conf (DISPATCHER_STREAMS_CONF).")
]
MetricsPort = Annotated[
    int | None,
    typer.Option(
        "--metrics-port",
        min=1,
        max=65535,
        help="Serve /metrics, /livez and /readyz at this port (DISPATCHER_METRICS_PORT).",
    ),
]
LogFormat = Annotated[
    str | None,
    typer.Option("--log-format", metavar="auto|pretty|json", help="Kind of log lines (DISPATCHER_LOG_FORMAT)."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]

_FLAGS = {
    "database_url": "--database-url",
    "nats_url": "--nats-url",
    "db_schema": "--schema",
    "namespace": "--namespace",
    "streams_conf": "--streams-conf",
    "metrics_port": "--metrics-port",
    "log_format": "--log-format",
}
_CURES = {
    **dict.fromkeys(("database_url", "direct_database_url"), "postgresql://user:password@host:5432/name"),
    "nats_url": "nats://host:4222",
    "lease": "seconds, for example 30",
    "grace": "seconds, for example 25",
    "backstop": "seconds, for example 30",
    "processes": "a whole number from 1",
    "process_recycle_after": "a whole number of tasks from 1",
    "process_memory": "megabytes from 16, for example 512",
    "log_lines": "a whole number from 0 to 10000",
    "log_bytes": "a whole number of bytes from 1024 to 1048576",
    "outbox_limit": "a whole number, for example 1000000",
    **dict.fromkeys(("keep_succeeded", "keep_failed", "keep_cancelled"), "at least a minute: 30d, 12h, forever"),
    "db_schema": "a name such as dispatcher",
    "namespace": "a name such as dispatcher",
    "metrics_port": "a port, 1 to 65535",
    "log_format": "auto, pretty or json",
}


def load_settings(*, use_dev: bool = True, **flags: Any) -> Settings:
    """Settings from flags (``None``: not given), the environment and, with ``use_dev``, a running ``dispatcher dev``.

    Raises ``ConfigurationError`` in one line that names the flag or variable that is wrong and what it should be.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    if use_dev:
        given = {**dev_settings(given), **given}
    try:
        return Settings(**given)
    except ValidationError as error:
        raise ConfigurationError("; ".join(_explain(item, given) for item in error.errors())) from None


def dev_settings(flags: Mapping[str, Any]) -> dict[str, Any]:
    """What the ``dispatcher dev`` of this folder adds to these flags: nothing when any server is named already.

    All or nothing, so that one command never talks to the database of one installation and the NATS of another.
    """
    set_names = {name.upper() for name, value in os.environ.items() if value}
    for name in ("database_url", "direct_database_url", "nats_url"):
        if flags.get(name) is not None or set_names.intersection(variables_of(name)):
            return {}
    settings = (found() or {}).get("settings")
    if not isinstance(settings, dict):
        return {}
    return {
        name: value
        for name, value in settings.items()
        if name in Settings.model_fields and not set_names.intersection(variables_of(name))
    }


def require_database(settings: Settings) -> str:
    """The database's URL, or a ``ConfigurationError`` that says how to give one."""
    if not settings.database_url:
        raise ConfigurationError(
            "no database is configured; set DISPATCHER_DATABASE_URL=postgresql://user:password@host:5432/name or pass"
            " --database-url, or start everything in this folder with: dispatcher dev MODULE:APP"
        )
    return settings.database_url


def require_nats(settings: Settings) -> str:
    """The NATS servers' URL, or a ``ConfigurationError`` that says how to give one."""
    if not settings.nats_url:
        raise ConfigurationError(
            "no NATS server is configured; set DISPATCHER_NATS_URL=nats://host:4222 or pass --nats-url"
        )
    return settings.nats_url


def variables_of(name: str) -> tuple[str, ...]:
    """The environment variables that set a field of ``Settings``, the strongest first."""
    return variables(name, Settings.model_fields[name])


def _explain(item: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    place = str(item["loc"][0]) if item["loc"] else ""
    name = next((field for field in Settings.model_fields if place == field or place in variables_of(field)), place)
    variables = variables_of(name) if name in Settings.model_fields else ()
    source = _FLAGS.get(name, name) if name in given else next((v for v in variables if v in os.environ), place)
    shown = "" if name in ("database_url", "direct_database_url", "nats_url") else f"={item['input']}"
    reason = str(item["msg"]).removeprefix("Value error, ").replace("Input should be", "it should be")
    if name not in _CURES:
        return f"{source}{shown} is not valid: {reason}"
    # what a parser says about the text's inside helps nobody
    why = "" if str(item["type"]).endswith("_parsing") else f" ({reason})"
    return f"{source}{shown} is not valid{why}; give {_CURES[name]}"
