"""``EmbeddedServers``: real PostgreSQL and nats-server for development, tests, demo and benchmarks, without set-up."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType

from dispatcher.embedded.account import choose_account
from dispatcher.embedded.binaries import find_nats_server, find_postgres
from dispatcher.embedded.broker import Broker
from dispatcher.embedded.database import DATABASE, ROLE, Database, check_settings
from dispatcher.embedded.errors import EmbeddedError
from dispatcher.embedded.folders import default_data_dir
from dispatcher.embedded.guard_client import GuardClient, Launch
from dispatcher.embedded.home import Home
from dispatcher.embedded.leftovers import stop_leftovers
from dispatcher.embedded.ports import HOST, free_port, is_free

__all__ = ["EmbeddedServers"]

_START_SECONDS = 60.0
_PORT_TRIES = 5
_PORT_SECONDS = 10.0


class EmbeddedServers:
    """PostgreSQL and NATS on free ports of 127.0.0.1, with a random password and token.

    ``data_dir`` is kept from one start to the next (default: the user's data folder); with ``keep=False`` it is
    emptied at the end, and without a ``data_dir`` it is a temporary folder.  ``postgres_settings`` go over our own;
    fsync, full_page_writes and synchronous_commit stay on.  One process at a time uses a ``data_dir``; a second one
    gets an EmbeddedError that names the first.  The servers end with this process, however it ends.
    """

    def __init__(
        self,
        data_dir: Path | None = None,
        *,
        postgres_settings: Mapping[str, str] | None = None,
        keep: bool = True,
    ) -> None:
        self.data_dir = data_dir
        """The data folder; known after ``start()`` when none was given."""
        self.keep = keep
        self._given = data_dir
        self._settings = check_settings(postgres_settings or {})
        self._owner = os.getpid()
        self._home: Home | None = None
        self._guard: GuardClient | None = None
        self._database: Database | None = None
        self._broker: Broker | None = None
        self._nats_version = ""
        self._pids: dict[str, int] = {}
        self._killed: set[str] = set()

    def __enter__(self) -> EmbeddedServers:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    @property
    def database_url(self) -> str:
        """PostgreSQL, as a libpq URL with the password."""
        home = self._running()
        return f"postgresql://{ROLE}:{home.record.password}@{HOST}:{home.record.postgres_port}/{DATABASE}"

    @property
    def nats_url(self) -> str:
        """NATS, with the token."""
        home = self._running()
        return f"nats://{home.record.token}@{HOST}:{home.record.nats_port}"

    @property
    def postgres_version(self) -> str:
        """Such as ``18.6``."""
        return "" if self._database is None else self._database.binaries.version

    @property
    def nats_version(self) -> str:
        """Such as ``2.15.1``."""
        return self._nats_version

    @property
    def postgres_pid(self) -> int:
        """Process id of the postmaster started last."""
        return self._pids["postgres"]

    @property
    def nats_pid(self) -> int:
        """Process id of the nats-server started last."""
        return self._pids["nats"]

    @property
    def guard_pid(self) -> int:
        """Process id of the guard, the parent of both servers."""
        return self._guarded().pid

    def start(self) -> None:
        """Start both servers and return when they accept clients.  Raises EmbeddedError, and leaves nothing behind."""
        if self._home is not None:
            raise EmbeddedError(f"the servers in {self.data_dir} are already started")
        self._owner = os.getpid()
        self._home = self._open_home()
        try:
            self._start_both(self._home)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop both servers in order, by growing force if need be.  Does nothing when they are not started."""
        if self._home is None or os.getpid() != self._owner:  # a forked child must not stop its parent's servers
            return
        home, guard, self._home, self._guard = self._home, self._guard, None, None
        try:
            if guard is not None:
                guard.close()
            self._leave_no_trace()  # only finds something when the guard itself was killed
        finally:
            home.close()
            self._pids = {}
            if self._given is None and not self.keep:
                shutil.rmtree(home.root, ignore_errors=True)

    def kill_postgres(self) -> None:
        """End PostgreSQL with SIGKILL, as a crash would."""
        self._kill("postgres")

    def kill_nats(self) -> None:
        """End nats-server with SIGKILL, as a crash would."""
        self._kill("nats")

    def fallen(self) -> dict[str, int]:
        """Which of ``postgres`` and ``nats`` have ended although nobody here ended them, and with what exit code.

        The code is negative after a signal.
        """
        guard = self._guarded()
        codes = {name: guard.exit_code(name) for name in self._pids if name not in self._killed}
        return {name: code for name, code in codes.items() if code is not None}

    def restart_postgres(self) -> None:
        """Start PostgreSQL again on its port, after stopping it if it runs."""
        self._guarded().stop("postgres")
        if self._database is not None:
            stop_leftovers(self._database.pgdata, None)
        self._start_postgres(self._running())

    def restart_nats(self, *, wipe: bool = False, set_aside: bool = False, patience: float = _START_SECONDS) -> None:
        """Start nats-server again on its port, after stopping it if it runs; ``wipe`` empties its store in between.

        With ``set_aside`` it gets an empty store, too, and the old one is kept as ``nats.damaged``.  Raises
        EmbeddedError when it is not ready after ``patience`` seconds.
        """
        self._guarded().stop("nats")
        home = self._running()
        store = home.root / "nats"
        if set_aside and store.exists():
            shutil.rmtree(home.set_aside, ignore_errors=True)
            store.rename(home.set_aside)
        if wipe:
            shutil.rmtree(store, ignore_errors=True)
        self._start_nats(home, patience)

    def _running(self) -> Home:
        if self._home is None:
            raise EmbeddedError("the embedded servers are not started")
        return self._home

    def _guarded(self) -> GuardClient:
        if self._guard is None:
            raise EmbeddedError("the embedded servers are not started")
        return self._guard

    def _kill(self, name: str) -> None:
        self._killed.add(name)
        self._guarded().kill(name)

    def _open_home(self) -> Home:
        if self._given is None and not self.keep:
            self.data_dir = Path(tempfile.mkdtemp(prefix="dispatcher-"))
            return Home(self.data_dir.resolve(), ours=True)
        self.data_dir = (default_data_dir(os.environ) if self._given is None else Path(self._given)).absolute()
        return Home(self.data_dir)

    def _start_both(self, home: Home) -> None:
        owner = None
        if home.record.pgdata_complete and home.record.pgdata is not None and os.path.isdir(home.record.pgdata):
            owner = os.stat(home.record.pgdata).st_uid or None
        account = choose_account(os.environ, owner)
        binaries = find_postgres(account, os.environ)
        program = find_nats_server(os.environ)
        self._guard = GuardClient(home.log("guard"), home.lock_fd)
        self._broker = Broker(
            program, home.nats_conf, home.root / "nats", home.record.token, f"embedded-{secrets.token_hex(8)}"
        )
        self._database = Database(binaries, account, home.pgdata(account))
        if not self.keep:
            self._guard.remove_at_end(home.contents() + ([home.root] if self._given is None else []))
        self._leave_no_trace()
        if not home.record.pgdata_complete:
            self._database.create(home.record.password, os.environ)
            home.record.pgdata_complete = True
            home.save()
        self._database.check_version()
        self._start_nats(home)
        self._start_postgres(home)
        home.save()

    def _leave_no_trace(self) -> None:
        if self._database is not None and self._broker is not None:
            stop_leftovers(self._database.pgdata, self._broker.conf)

    def _start_postgres(self, home: Home) -> None:
        database, log = self._database, home.log("postgres")
        assert database is not None
        home.record.postgres_port = self._start(
            home.record.postgres_port,
            log,
            lambda port: database.launch(port, self._settings, log),
            lambda port: database.is_ready(self._pids["postgres"]),
        )

    def _start_nats(self, home: Home, patience: float = _START_SECONDS) -> None:
        broker, log = self._broker, home.log("nats")
        assert broker is not None

        def is_ready(port: int) -> bool:
            self._nats_version = broker.version(port) or ""
            return bool(self._nats_version)

        home.record.nats_port = self._start(
            home.record.nats_port, log, lambda port: broker.launch(port, log), is_ready, patience
        )

    def _start(
        self,
        wished: int | None,
        log: Path,
        launch: Callable[[int], Launch],
        is_ready: Callable[[int], bool],
        patience: float = _START_SECONDS,
    ) -> int:
        """Start one server and wait until it is ready; on a port that was snatched away, again on another."""
        for _ in range(_PORT_TRIES):
            plan = launch(port := self._port(wished, log.stem))
            offset = log.stat().st_size if log.exists() else 0
            self._pids[plan.name] = self._guarded().start(plan)
            self._killed.discard(plan.name)
            if self._wait(plan.name, is_ready, port, patience):
                return port
            said = _tail(log, offset)
            if "address already in use" not in said.lower():
                raise EmbeddedError(f"{plan.name} did not start; {log} says: {_last_line(said)}")
        raise EmbeddedError(f"{log.stem} found its port taken {_PORT_TRIES} times in a row")

    def _port(self, wished: int | None, name: str) -> int:
        if wished is None or name not in self._pids:
            return free_port(wished)
        # a restart: clients know the port, so it must be the same
        deadline = time.monotonic() + _PORT_SECONDS
        while not is_free(wished):
            if time.monotonic() > deadline:
                raise EmbeddedError(f"port {wished} of {name} was taken by another program; start the servers anew")
            time.sleep(0.05)
        return wished

    def _wait(self, name: str, is_ready: Callable[[int], bool], port: int, patience: float) -> bool:
        """True when it is ready, False when it ended."""
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            if is_ready(port):
                return True
            if self._guarded().exit_code(name) is not None:
                return False
            time.sleep(0.01)
        self._guarded().stop(name)
        raise EmbeddedError(f"{name} was not ready within {patience:.0f} s; see {self.data_dir}/{name}.log")


def _tail(log: Path, offset: int) -> str:
    with log.open("rb") as file:
        file.seek(offset)
        return file.read().decode(errors="replace")


def _last_line(text: str) -> str:
    lines = [line for line in text.strip().splitlines() if "FATAL" in line or "FTL" in line] or text.splitlines()
    return lines[-1].strip() if lines else "nothing"
