"""Settings of the processes: read once from the environment (prefix ``DISPATCHER_``), strict and frozen.

``DISPATCHER_DATABASE_URL`` falls back to ``DATABASE_URL``, ``DISPATCHER_NATS_URL`` to ``NATS_URL``.  No module reads
the environment itself; the command line builds one ``Settings`` and passes it on.
"""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AliasChoices, BeforeValidator, Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from state.sql import DEFAULT_SCHEMA, check_schema

__all__ = ["NAMESPACE_PATTERN", "Settings"]

NAMESPACE_PATTERN = re.compile(r"[A-Za-z0-9_-]{1,32}")
_DRIVER = re.compile(r"^(postgres(?:ql)?)\+\w+://")


def _seconds(value: object) -> object:
    """Environment variables hold seconds as text, which pydantic does not read as a duration."""
    try:
        return timedelta(seconds=float(value)) if isinstance(value, str) else value
    except (ValueError, OverflowError):
        return value


Duration = Annotated[timedelta, BeforeValidator(_seconds)]


class Settings(BaseSettings):
    """Where the servers are and how our processes behave.  Times are ``timedelta``; environment values are seconds."""

    model_config = SettingsConfigDict(env_prefix="DISPATCHER_", frozen=True, extra="ignore", populate_by_name=True)

    database_url: str | None = Field(
        default=None, repr=False, validation_alias=AliasChoices("DISPATCHER_DATABASE_URL", "DATABASE_URL")
    )
    """PostgreSQL, as a libpq URL; an SQLAlchemy driver suffix such as ``+psycopg`` is accepted and dropped."""
    nats_url: str | None = Field(
        default=None, repr=False, validation_alias=AliasChoices("DISPATCHER_NATS_URL", "NATS_URL")
    )
    """NATS servers, comma separated; a token or user:password may stand before the ``@``."""
    nats_creds: Path | None = None
    """A NATS ``.creds`` file."""
    db_schema: str = DEFAULT_SCHEMA
    """The PostgreSQL schema that holds our tables."""
    namespace: str = "dispatcher"
    """First token of every NATS subject; two installations on one NATS server need two namespaces."""
    streams_conf: Path | None = None
    """The streams.conf to follow; without one the built-in single stream is used."""
    lease: Duration = Field(default=timedelta(seconds=30), ge=timedelta(seconds=2), le=timedelta(hours=1))
    """How long a worker may be silent before its tasks are given to others."""
    grace: Duration = Field(default=timedelta(seconds=25), ge=timedelta(0))
    """How long a stopping worker lets its running tasks finish."""
    backstop: Duration = Field(default=timedelta(seconds=30), ge=timedelta(seconds=1))
    """How often the leading relay looks for work that nobody announced: insurance, not the mechanism."""
    outbox_limit: int = Field(default=1_000_000, ge=1)
    """Above this many waiting outbox rows creating a task is refused."""
    metrics_port: int | None = Field(default=None, ge=1, le=65535)
    """Where relay and worker serve ``/metrics``, ``/livez`` and ``/readyz``; without a port nowhere."""
    metrics_address: str = "127.0.0.1"
    """The address for that; ``0.0.0.0`` for every interface, as in a container.  There is no login."""
    log_format: Literal["auto", "pretty", "json"] = "auto"
    """Log lines of relay and worker; ``auto`` is ``pretty`` on a terminal and ``json`` elsewhere."""

    @field_validator("database_url")
    @classmethod
    def _plain_driver(cls, value: str | None) -> str | None:
        return None if value is None else _DRIVER.sub(r"\1://", value)

    @field_validator("db_schema")
    @classmethod
    def _legal_schema(cls, value: str) -> str:
        return check_schema(value)

    @field_validator("namespace")
    @classmethod
    def _legal_namespace(cls, value: str) -> str:
        if not NAMESPACE_PATTERN.fullmatch(value):
            raise ValueError("namespace must be 1 to 32 letters, digits, '_' or '-'")
        return value
