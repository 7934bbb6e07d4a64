"""The folder of one drill: its plan, ledgers, schedule and logs; its servers, and the proxies in front of them.

drill.json     what was asked for
faults.jsonl   every fault that was really done, with its time and victim: with the seed, the way to repeat it
ledger/        one append-only file per process
logs/          what the processes said
servers/       data of PostgreSQL and NATS
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from dispatcher.drill.proxy import LoopThread, Proxy
from dispatcher.embedded import EmbeddedServers
from dispatcher.errors import ConfigurationError
from dispatcher.settings import Settings

__all__ = ["LEASE", "Place", "Plan", "opened", "reopened"]

LEASE = timedelta(seconds=4)
"""Of every drill that does not ask for the default settings: a campaign of 200 faults has to end some day."""
STREAMS_CONF = """# the drill's: messages of a killed worker come back after 3 s instead of 15
[defaults]
ack_wait = "3s"
"""


@dataclass(frozen=True)
class Plan:
    """What a drill is to do; kept so that it can be checked later."""

    drill: str
    tasks: int
    kills: int
    seed: int
    default_settings: bool = False
    """Lease, ack_wait and all else as users have them."""
    streams: str = ""
    """More lines of streams.conf."""
    plant: str = ""
    """A bug to be planted in every process."""
    schema: str = "dispatcher"
    namespace: str = "drill"


@dataclass(frozen=True)
class Place:
    """An open drill."""

    root: Path
    plan: Plan
    servers: EmbeddedServers
    settings: Settings
    """Of the processes: their servers are behind the proxies."""
    direct: Settings
    """Ours: past the proxies."""
    thread: LoopThread
    database_proxy: Proxy
    nats_proxy: Proxy

    def folder(self, name: str) -> Path:
        """A subfolder, made when missing."""
        return _folder(self.root, name)

    @property
    def versions(self) -> str:
        """Of the servers, for people."""
        return f"PostgreSQL {self.servers.postgres_version}, nats-server {self.servers.nats_version}"

    def note_fault(self, fault: dict[str, Any]) -> None:
        """Remember a fault that certainly happened."""
        with (self.root / "faults.jsonl").open("a") as file:
            file.write(json.dumps(fault) + "\n")


def faults_of(root: Path) -> list[dict[str, Any]]:
    """Every fault of a drill, in order."""
    try:
        return [json.loads(line) for line in (root / "faults.jsonl").read_text().splitlines()]
    except FileNotFoundError:
        return []


@contextmanager
def opened(keep: Path | None, plan: Plan) -> Iterator[Place]:
    """A new drill in ``keep``, or in a folder that is deleted afterwards; servers and proxies run meanwhile."""
    if keep is not None:
        _claim(keep)
    with EmbeddedServers(keep / "servers" if keep else None, keep=keep is not None) as servers:
        assert servers.data_dir is not None
        root = keep or servers.data_dir / "drill"
        root.mkdir(mode=0o700, exist_ok=True)
        (root / "drill.json").write_text(json.dumps(asdict(plan), indent=1) + "\n")
        (root / "streams.conf").write_text(("" if plan.default_settings else STREAMS_CONF) + plan.streams)
        for name in ("ledger", "logs"):
            _folder(root, name)
        with _stood(root, plan, servers) as place:
            yield place


@contextmanager
def reopened(root: Path) -> Iterator[Place]:
    """A kept drill, with its servers started again.  Raises ``ConfigurationError`` when there is none."""
    try:
        plan = Plan(**json.loads((root / "drill.json").read_text()))
    except FileNotFoundError:
        raise ConfigurationError(f"{root} holds no drill; make one with: dispatcher drill run --keep {root}") from None
    except (OSError, ValueError, TypeError) as error:
        raise ConfigurationError(f"{root / 'drill.json'} cannot be read: {error}") from None
    with EmbeddedServers(root / "servers") as servers, _stood(root, plan, servers) as place:
        yield place


@contextmanager
def _stood(root: Path, plan: Plan, servers: EmbeddedServers) -> Iterator[Place]:
    thread = LoopThread()
    database = Proxy(thread, urlsplit(servers.database_url).port or 0)
    nats = Proxy(thread, urlsplit(servers.nats_url).port or 0)
    direct = _settings(root, plan, servers.database_url, servers.nats_url)
    proxied = _settings(root, plan, _at(servers.database_url, database.port), _at(servers.nats_url, nats.port))
    try:
        yield Place(root, plan, servers, proxied, direct, thread, database, nats)
    finally:
        for proxy in (database, nats):
            proxy.close()
        thread.close()


def _settings(root: Path, plan: Plan, database_url: str, nats_url: str) -> Settings:
    settings = Settings(
        database_url=database_url,
        nats_url=nats_url,
        db_schema=plan.schema,
        namespace=plan.namespace,
        streams_conf=root / "streams.conf",
    )
    if plan.default_settings:
        return settings
    return settings.model_copy(
        update={"lease": LEASE, "grace": timedelta(seconds=10), "backstop": timedelta(seconds=10)}
    )


def _at(url: str, port: int) -> str:
    parts = urlsplit(url)
    user = parts.netloc.rpartition("@")[0]
    return urlunsplit(parts._replace(netloc=f"{user}@{parts.hostname}:{port}"))


def _folder(root: Path, name: str) -> Path:
    path = root / name
    path.mkdir(mode=0o700, exist_ok=True)
    return path


def _claim(keep: Path) -> None:
    try:
        keep.mkdir(mode=0o700, parents=True, exist_ok=True)
        taken = next(keep.iterdir(), None)
    except OSError as error:
        raise ConfigurationError(f"--keep {keep}: {error.strerror}") from None
    if taken is not None:
        cure = f"look at it with: dispatcher drill check {keep}" if (keep / "drill.json").exists() else "name a new one"
        raise ConfigurationError(f"--keep {keep}: the folder is not empty; {cure}")
