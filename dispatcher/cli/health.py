"""``dispatcher health``: ask the relay or worker of this machine whether it is ready; for containers."""

from __future__ import annotations

import json as jsonlib
from http.client import HTTPConnection, HTTPException
from typing import Annotated

import typer

from dispatcher.cli.failures import UNAVAILABLE
from dispatcher.cli.options import Json, MetricsPort, load_settings
from dispatcher.cli.output import emit, fail, guard
from dispatcher.errors import ConfigurationError

__all__ = ["command"]

_SECONDS = 8.0


def command(
    port: MetricsPort = None,
    live: Annotated[bool, typer.Option("--live", help="Ask only whether its event loop turns.")] = False,
    json: Json = False,
) -> None:
    """Ask a relay or worker on this machine whether it is ready; exit code 5 if it is not."""
    with guard():
        settings = load_settings(use_dev=False, metrics_port=port)
        if settings.metrics_port is None:
            raise ConfigurationError(
                "no port is configured; pass --metrics-port or set DISPATCHER_METRICS_PORT, as for the process"
            )
        status, body = _ask(settings.metrics_port, "/livez" if live else "/readyz")
        emit(body, json, lambda: " ".join(f"{name}={jsonlib.dumps(value)}" for name, value in body.items()))
        if status != 200:
            raise SystemExit(UNAVAILABLE)


def _ask(port: int, path: str) -> tuple[int, dict[str, object]]:
    connection = HTTPConnection("127.0.0.1", port, timeout=_SECONDS)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, jsonlib.loads(answer.read())
    except (OSError, ValueError, HTTPException) as error:
        fail(f"no relay or worker answers at 127.0.0.1:{port}: {error}", UNAVAILABLE)
    finally:
        connection.close()
