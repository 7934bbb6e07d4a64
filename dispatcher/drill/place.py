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
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from pathlib import Path
from secrets import token_hex
from tempfile import TemporaryDirectory
from typing import Any

from dispatcher.drill.given import NAME, ends_of, through, tidied
from dispatcher.drill.proxy import LoopThread, Proxy
from dispatcher.embedded import EmbeddedServers
from dispatcher.errors import ConfigurationError, DispatcherError
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
    slow: float = 0.06
    """The share of tasks that take a second or two: they are under way when somebody wakes up or is rescued."""
    plant: str = ""
    """A bug to be planted in every process."""
    schema: str = "dispatcher"
    namespace: str = "drill"
    configured: bool = False
    """On servers that were there before."""


@dataclass(frozen=True)
class Place:
    """An open drill."""

    root: Path
    plan: Plan
    versions: str
    """Of the servers, for people."""
    own: EmbeddedServers | None
    """Servers that may be killed; ``None`` on those of somebody else."""
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
    def servers(self) -> EmbeddedServers:
        """Servers that may be killed.  Raises ``DispatcherError`` when these are not."""
        if self.own is None:
            raise DispatcherError("this drill needs servers of its own")
        return self.own

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
def opened(keep: Path | None, plan: Plan, theirs: Settings | None = None) -> Iterator[Place]:
    """A new drill in ``keep``, or in a folder that is deleted afterwards; servers and proxies run meanwhile.

    With ``theirs`` it happens on servers that run already, in a schema and streams of its own, which are deleted
    afterwards, too.  Raises ``ConfigurationError`` when that cannot be done without touching what is not the drill's.
    """
    if keep is not None:
        _claim(keep)
    with ExitStack() as stack:
        if theirs is not None:
            ends_of(theirs)
            plan = replace(plan, schema=NAME, namespace=f"drill_{token_hex(4)}", configured=True)
            versions = stack.enter_context(tidied(theirs, plan.namespace, keep=keep is not None))
            root = keep or Path(stack.enter_context(TemporaryDirectory(prefix="dispatcher-drill-"))) / "drill"
            root.mkdir(mode=0o700, exist_ok=True)
            _lay_out(root, plan)
            yield stack.enter_context(_stood(root, plan, theirs, None, versions))
            return
        servers = stack.enter_context(EmbeddedServers(keep / "servers" if keep else None, keep=keep is not None))
        assert servers.data_dir is not None
        root = keep or servers.data_dir / "drill"
        root.mkdir(mode=0o700, exist_ok=True)
        _lay_out(root, plan)
        yield stack.enter_context(_stood(root, plan, _settings_of(servers), servers, _versions(servers)))


def _lay_out(root: Path, plan: Plan) -> None:
    (root / "drill.json").write_text(json.dumps(asdict(plan), indent=1) + "\n")
    (root / "streams.conf").write_text(("" if plan.default_settings else STREAMS_CONF) + plan.streams)
    for name in ("ledger", "logs"):
        _folder(root, name)


def _plan_of(root: Path) -> Plan:
    """What a kept drill was to do.  Raises ``ConfigurationError`` when there is none."""
    try:
        return Plan(**json.loads((root / "drill.json").read_text()))
    except FileNotFoundError:
        raise ConfigurationError(f"{root} holds no drill; make one with: dispatcher drill run --keep {root}") from None
    except (OSError, ValueError, TypeError) as error:
        raise ConfigurationError(f"{root / 'drill.json'} cannot be read: {error}") from None


@contextmanager
def reopened(root: Path) -> Iterator[Place]:
    """A kept drill, with its servers started again.  Raises ``ConfigurationError`` when there is none."""
    plan = _plan_of(root)
    if plan.configured:
        raise ConfigurationError(
            f"{root}: this drill ran on servers that are not its own; look into the schema {plan.schema} there"
        )
    with EmbeddedServers(root / "servers") as servers:
        with _stood(root, plan, _settings_of(servers), servers, _versions(servers)) as place:
            yield place


def _settings_of(servers: EmbeddedServers) -> Settings:
    return Settings(database_url=servers.database_url, nats_url=servers.nats_url)


def _versions(servers: EmbeddedServers) -> str:
    return f"PostgreSQL {servers.postgres_version}, nats-server {servers.nats_version}"


@contextmanager
def _stood(root: Path, plan: Plan, given: Settings, own: EmbeddedServers | None, versions: str) -> Iterator[Place]:
    (database_host, database_port), (nats_host, nats_port) = ends_of(given)
    database_url, nats_url = given.database_url or "", given.nats_url or ""
    thread = LoopThread()
    database = Proxy(thread, database_port, database_host)
    nats = Proxy(thread, nats_port, nats_host)
    direct = _settings(root, plan, database_url, nats_url)
    proxied = _settings(root, plan, through(database_url, database.port), through(nats_url, nats.port))
    try:
        yield Place(root, plan, versions, own, proxied, direct, thread, database, nats)
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
