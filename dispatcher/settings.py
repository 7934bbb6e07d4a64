"""Settings of the processes: read once from the environment (prefix ``DISPATCHER_``), strict and frozen.

``DISPATCHER_DATABASE_URL`` falls back to ``DATABASE_URL``, ``DISPATCHER_NATS_URL`` to ``NATS_URL``.  Instead of any
variable a file can be named that holds its value, in the variable with ``_FILE`` behind: for secrets.  No module reads
the environment itself; the command line builds one ``Settings`` and passes it on.
"""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import quote

from pydantic import AliasChoices, BeforeValidator, Field, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from dispatcher.secret_files import EnvironmentAndFiles, variables
from dispatcher.streams.units import parse_keep
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


def _keep(value: object) -> object:
    """Seconds, or what streams.conf takes: ``30d``, ``forever``."""
    seconds = _seconds(value)
    return parse_keep(value) if seconds is value and isinstance(value, str) else seconds


Duration = Annotated[timedelta, BeforeValidator(_seconds)]
Keep = Annotated[timedelta, BeforeValidator(_keep), Field(ge=timedelta(minutes=1))]


def _with_password(url: str, password: str) -> str:
    scheme, mark, rest = url.partition("://")
    if not mark:  # the other form of libpq: key=value pairs, of which the last one counts
        return url + " password='" + password.replace("\\", "\\\\").replace("'", "\\'") + "'"
    authority, slash, tail = rest.partition("/")
    login, _, host = authority.rpartition("@")
    return f"{scheme}://{login.partition(':')[0]}:{quote(password, safe='')}@{host}{slash}{tail}"


class Settings(BaseSettings):
    """Where the servers are and how our processes behave.  Times are ``timedelta``; environment values are seconds."""

    model_config = SettingsConfigDict(env_prefix="DISPATCHER_", frozen=True, extra="ignore", populate_by_name=True)

    database_url: str | None = Field(
        default=None, repr=False, validation_alias=AliasChoices("DISPATCHER_DATABASE_URL", "DATABASE_URL")
    )
    """PostgreSQL, as a libpq URL; an SQLAlchemy driver suffix such as ``+psycopg`` is accepted and dropped."""
    direct_database_url: str | None = Field(default=None, repr=False)
    """Set it if ``DISPATCHER_DATABASE_URL`` leads through a pooler: the way past it, for relay and ``migrate``."""
    database_password: str | None = Field(default=None, repr=False)
    """The password for PostgreSQL, if not in the URL; as a rule given by ``DISPATCHER_DATABASE_PASSWORD_FILE``."""
    nats_url: str | None = Field(
        default=None, repr=False, validation_alias=AliasChoices("DISPATCHER_NATS_URL", "NATS_URL")
    )
    """NATS servers, comma separated; a token or user:password may stand before the ``@``; ``tls://`` demands TLS."""
    nats_user: str | None = None
    """The user to log in as at NATS."""
    nats_password: str | None = Field(default=None, repr=False)
    """Its password; as a rule given by ``DISPATCHER_NATS_PASSWORD_FILE``."""
    nats_token: str | None = Field(default=None, repr=False)
    """A token to log in with instead of a user; as a rule given by ``DISPATCHER_NATS_TOKEN_FILE``."""
    nats_creds: Path | None = None
    """A NATS ``.creds`` file to log in with instead."""
    nats_nkey: Path | None = None
    """A file with an nkey seed to log in with instead."""
    nats_ca: Path | None = None
    """The CA certificates (PEM) that NATS servers are verified by; those of the system when not given."""
    nats_cert: Path | None = None
    """Our certificate (PEM) for NATS servers that ask for one."""
    nats_key: Path | None = None
    """Its private key (PEM), if it is not in the same file."""
    nats_inbox_prefix: str = Field(default="_INBOX", pattern=r"^[A-Za-z0-9_-]+$")
    """First token of the subjects that answers come to; a role with its own can be kept from others' answers."""
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
    keep_succeeded: Keep = timedelta(days=30)
    """How long succeeded tasks stay after their end: seconds, or a text such as ``12h``, ``30d``, ``forever``."""
    keep_failed: Keep = timedelta(days=90)
    """The same for failed tasks."""
    keep_cancelled: Keep = timedelta(days=30)
    """The same for cancelled tasks."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments first, then the environment and the files it names.

        Whoever names another database than the environment is not led to the environment's by its way past a pooler.
        """
        names = {"database_url", *variables("database_url", settings_cls.model_fields["database_url"])}
        leave_out = {"direct_database_url"} if names & init_settings().keys() else set()
        return init_settings, EnvironmentAndFiles(settings_cls, leave_out)

    @model_validator(mode="after")
    def _one_url(self) -> Self:
        """Whoever connects, libpq tools included, needs nothing but the URL."""
        for name in ("database_url", "direct_database_url"):
            url = getattr(self, name)
            if url and self.database_password:
                self.__dict__[name] = _with_password(url, self.database_password)
        return self

    @property
    def pooled(self) -> bool:
        """Whether ``database_url`` leads through a pooler: no session of its own, so nothing may be kept in one."""
        return self.direct_database_url is not None

    def direct(self) -> Self:
        """The same for whoever needs sessions of its own: ``database_url`` leads past the pooler, if there is one."""
        if self.direct_database_url is None:
            return self
        return self.model_copy(update={"database_url": self.direct_database_url, "direct_database_url": None})

    processes: int | None = Field(default=None, ge=1, le=1000)
    """Most child processes of one worker, for task types with ``pool="process"``; as many as there are cores."""
    process_recycle_after: int | None = Field(default=None, ge=1)
    """After so many tasks a child process is replaced by a new one; never when not given."""
    process_memory: int | None = Field(default=None, ge=16)
    """Megabytes that a child process may use: above it one is ended, above four fifths replaced after its task."""
    log_lines: int = Field(default=200, ge=0, le=10_000)
    """How many of the last log lines of an attempt are kept with it; 0: none."""
    log_bytes: int = Field(default=32_768, ge=1024, le=1_048_576)
    """How many bytes of log lines of an attempt are kept at most."""
    metrics_port: int | None = Field(default=None, ge=1, le=65535)
    """Where relay and worker serve ``/metrics``, ``/livez`` and ``/readyz``; without a port nowhere."""
    metrics_address: str = "127.0.0.1"
    """The address for that; ``0.0.0.0`` for every interface, as in a container.  There is no login."""
    log_format: Literal["auto", "pretty", "json"] = "auto"
    """Log lines of relay and worker; ``auto`` is ``pretty`` on a terminal and ``json`` elsewhere."""

    @field_validator("database_url", "direct_database_url")
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
