"""PostgreSQL as a child of our guard: makes the database once from a cached template, knows its settings."""

from __future__ import annotations

import os
import re
import shutil
import signal
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dispatcher.embedded.account import Account, run_as
from dispatcher.embedded.binaries import PostgresBinaries
from dispatcher.embedded.errors import EmbeddedError
from dispatcher.embedded.folders import cache_folder, system_folder
from dispatcher.embedded.guard_client import Launch
from dispatcher.embedded.ports import HOST

__all__ = ["DATABASE", "ROLE", "Database", "check_settings"]

ROLE = "dispatcher"
DATABASE = "dispatcher"
_STOP = ((signal.SIGINT, 30.0), (signal.SIGQUIT, 10.0), (signal.SIGKILL, 10.0))

_DEFAULTS = {
    "shared_buffers": "256MB",
    "max_connections": "200",
    "max_wal_size": "4GB",
    "checkpoint_timeout": "15min",
    "wal_compression": "on",
    "jit": "off",
}
_FIXED = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",
    # containers give /dev/shm 64 MB, which one parallel query can exceed
    "dynamic_shared_memory_type": "mmap",
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
}
_OURS = {"port", "data_directory", "hba_file", "ident_file", "config_file", "external_pid_file", "logging_collector"}


def check_settings(settings: Mapping[str, str]) -> dict[str, str]:
    """The settings to start with: ours under the caller's.  Raises EmbeddedError for what may not be changed."""
    for name, value in settings.items():
        if not re.fullmatch(r"[a-z_][a-z0-9_]*(\.[a-z0-9_]+)?", name):
            raise EmbeddedError(f"postgres_settings: {name!r} is not the name of a PostgreSQL setting")
        if name in _OURS or _FIXED.get(name, value) != value:
            raise EmbeddedError(f"postgres_settings: {name} is decided by the embedded servers and cannot be changed")
    return _DEFAULTS | dict(settings) | _FIXED


@dataclass(frozen=True)
class Database:
    """One PostgreSQL: where it lies, what runs it, and as whom."""

    binaries: PostgresBinaries
    account: Account | None
    pgdata: Path

    def create(self, password: str, environ: Mapping[str, str]) -> None:
        """Fill the empty folder: copy of the template, own password, everything on disk before this returns."""
        template = self._template(environ)
        if template is None:
            self._init(self.pgdata)
        else:
            self._run(["cp", "-R", f"{template}/.", str(self.pgdata)], "copy the database template")
        # single-user mode: the password passes through a pipe, and no server is open with the template's
        self._single(self.pgdata, f"ALTER ROLE {ROLE} PASSWORD '{password}';\n")
        self._sync(self.pgdata)

    def check_version(self) -> None:
        """Refuse data that another major version wrote."""
        found = (self.pgdata / "PG_VERSION").read_text().strip()
        if found != str(self.binaries.major):
            raise EmbeddedError(
                f"the database in {self.pgdata} was made by PostgreSQL {found}, this is {self.binaries.version}; "
                "set DISPATCHER_PG_BINDIR to the old one, or name another data folder"
            )

    def _template(self, environ: Mapping[str, str]) -> Path | None:
        """A finished database to copy, made once per version and user; None when there is no place for it."""
        try:
            if self.account is None:
                parent = cache_folder(environ)
                parent.mkdir(parents=True, exist_ok=True)
                owner = ""
            else:
                parent = system_folder(self.account)
                owner = f"-{self.account.uid}"
            target = parent / f"template-{self.binaries.version}{owner}"
            if target.exists():
                return target
            scratch = Path(tempfile.mkdtemp(prefix=".template-", dir=parent))
        except (OSError, EmbeddedError):
            return None
        return self._make_template(scratch, target)

    def _make_template(self, scratch: Path, target: Path) -> Path:
        try:
            if self.account is not None:
                os.chown(scratch, self.account.uid, self.account.gid)
            self._init(scratch)
            self._sync(scratch)
            scratch.rename(target)
        except OSError:
            if not target.exists():  # otherwise another process was faster
                raise
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return target

    def _init(self, folder: Path) -> None:
        locale = ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"] if self.binaries.major >= 17 else []
        # through cat: a pipe made by us as root could not be opened by the name /dev/stdin as another user
        initdb = ["/bin/sh", "-c", 'cat | "$0" "$@"', self._program("initdb")]
        argv = [*initdb, "-D", str(folder), "-U", ROLE, "-E", "UTF8", *locale]
        auth = ["--auth=scram-sha-256", "--pwfile=/dev/stdin"]
        # this password is random and thrown away; every copy gets its own
        self._run(
            [*argv, *auth, "--no-sync", "--no-instructions"],
            "make a database (initdb)",
            stdin=os.urandom(16).hex() + "\n",
        )
        self._single(folder, f"CREATE DATABASE {DATABASE} OWNER {ROLE};\n")

    def _single(self, folder: Path, sql: str) -> None:
        argv = [self._program("postgres"), "--single", "-F", "-c", "log_checkpoints=off", "-D", str(folder), "postgres"]
        said = self._run(argv, "set up the database", stdin=sql)
        if "ERROR:" in said:
            raise EmbeddedError(f"cannot set up the database: {said.strip().splitlines()[-1]}")

    def _sync(self, folder: Path) -> None:
        """What was written without fsync goes to disk now, before anybody is told that it is there."""
        self._run([self._program("initdb"), "--sync-only", "-D", str(folder)], "write the database to disk")

    def _program(self, name: str) -> str:
        return str(self.binaries.bindir / name)

    def _run(self, argv: list[str], what: str, stdin: str = "") -> str:
        result = run_as(self.account, argv, stdin)
        if result.returncode != 0:
            said = (result.stderr or result.stdout).strip().splitlines() or [f"exit code {result.returncode}"]
            raise EmbeddedError(f"cannot {what}: {said[-1]}")
        return result.stderr

    def launch(self, port: int, settings: Mapping[str, str], log: Path) -> Launch:
        """How to start it; removes a stale pid file, so call it only when no process uses the folder."""
        # the file may name a zombie or a recycled number, which PostgreSQL would take for a running server
        (self.pgdata / "postmaster.pid").unlink(missing_ok=True)
        wanted = dict(settings) | {"port": str(port)}
        if self.binaries.has_statistics:
            wanted.setdefault("shared_preload_libraries", "pg_stat_statements")
        options = [part for name, value in wanted.items() for part in ("-c", f"{name}={value}")]
        ids = None if self.account is None else (self.account.uid, self.account.gid)
        argv = [self._program("postgres"), "-D", str(self.pgdata), *options]
        return Launch("postgres", argv, Path("/"), log, _STOP, ids)

    def is_ready(self, pid: int) -> bool:
        """Whether the server of that pid accepts connections: its own pid file says so, so no other can answer."""
        try:
            lines = (self.pgdata / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        return len(lines) > 7 and lines[0] == str(pid) and lines[7].strip() == "ready"
