"""The data folder: one holder at a time, and what the servers must remember from one start to the next.

lock           held (flock) by whoever runs the servers; its text is that process's id
servers.json   password, token, ports, where the database lies; readable by its owner only
nats.conf      written anew at each start; it holds the token
postgres/      the database, unless its user cannot enter here: then a system folder, named in servers.json
nats/          JetStream's store
*.log          what the servers and their guard said
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from dispatcher.embedded.account import Account
from dispatcher.embedded.errors import EmbeddedError
from dispatcher.embedded.folders import system_folder
from dispatcher.embedded.leftovers import is_alive

__all__ = ["Home", "Record"]

_LEAVING_SECONDS = 60.0
_LOG_BYTES = 20_000_000


@dataclass
class Record:
    """What ``servers.json`` holds."""

    password: str
    token: str
    postgres_port: int | None = None
    nats_port: int | None = None
    pgdata: str | None = None
    pgdata_complete: bool = False
    """False until the database was made, given its password and written to disk: a half-made one is made again."""


class Home:
    """An opened and locked data folder.  ``close()`` gives the lock back, unless a guard still holds it.

    Raises EmbeddedError when the folder cannot be used or another live process holds it.
    """

    def __init__(self, root: Path, *, ours: bool = False) -> None:
        self.root = root
        try:
            if not root.exists():
                root.mkdir(parents=True)
                ours = True
            if ours:
                # others may pass through (as root, the database's user must) but not look
                root.chmod(0o711 if os.geteuid() == 0 else 0o700)
            self.lock_fd = os.open(root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise EmbeddedError(f"cannot use the data folder {root}: {error.strerror}") from error
        try:
            self._take_lock()
            self.record = self._load()
        except BaseException:
            self.close()
            raise

    @property
    def nats_conf(self) -> Path:
        """The configuration file of nats-server."""
        return self.root / "nats.conf"

    @property
    def set_aside(self) -> Path:
        """Where a store lies that nats-server could not live on."""
        return self.root / "nats.damaged"

    def log(self, name: str) -> Path:
        """A log file, started anew when it has grown too long."""
        path = self.root / f"{name}.log"
        if path.exists() and path.stat().st_size > _LOG_BYTES:
            path.unlink()
        return path

    def close(self) -> None:
        """Let go of the folder."""
        if self.lock_fd >= 0:
            os.close(self.lock_fd)
            self.lock_fd = -1

    def _take_lock(self) -> None:
        deadline = time.monotonic() + _LEAVING_SECONDS
        while True:
            try:
                fcntl.flock(self.lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                holder = self._holder()
                # the guard of a dead holder keeps the lock until its servers are down: that is worth waiting for
                if holder == os.getpid() or is_alive(holder) or time.monotonic() > deadline:
                    raise EmbeddedError(
                        f"the servers in {self.root} are already run by process {holder}; "
                        "stop it, use its servers by their URLs, or name another data folder"
                    ) from None
            time.sleep(0.05)
        os.ftruncate(self.lock_fd, 0)
        os.pwrite(self.lock_fd, f"{os.getpid()}\n".encode(), 0)

    def _holder(self) -> int:
        text = os.pread(self.lock_fd, 32, 0).strip()
        return int(text) if text.isdigit() else os.getpid()

    def _load(self) -> Record:
        path = self.root / "servers.json"
        try:
            return Record(**json.loads(path.read_text()))
        except FileNotFoundError:
            return Record(password=secrets.token_urlsafe(24), token=secrets.token_urlsafe(24))
        except (OSError, ValueError, TypeError) as error:
            raise EmbeddedError(f"cannot read {path}: {error}; restore it or name another data folder") from error

    def save(self) -> None:
        """Write the record, all or nothing, readable by its owner only."""
        write_private(self.root / "servers.json", json.dumps(asdict(self.record), indent=1) + "\n")

    def pgdata(self, account: Account | None) -> Path:
        """Where the database lies: decided once, then remembered; made empty when it is not there or half made."""
        record = self.record
        if record.pgdata is None:
            record.pgdata = str(self._place(account))
            self.save()
        path = Path(record.pgdata)
        if record.pgdata_complete:
            return self._checked(path, account)
        shutil.rmtree(path, ignore_errors=True)
        _make(path, account)
        return path

    def _checked(self, path: Path, account: Account | None) -> Path:
        try:
            owner = path.stat().st_uid
        except OSError as error:
            raise EmbeddedError(
                f"the database of {self.root} is not at {path} any more ({error.strerror}); name another data folder"
            ) from error
        if owner != (os.geteuid() if account is None else account.uid):
            raise EmbeddedError(f"{path} belongs to user id {owner}; start as that user or name another data folder")
        origin = path.parent / "origin"
        if path.parent != self.root and origin.exists() and origin.read_text() != os.path.realpath(self.root):
            raise EmbeddedError(f"{self.root} is a copy of {origin.read_text()}, whose database it names; use that one")
        return path

    def _place(self, account: Account | None) -> Path:
        """Below our folder if the account can get there, otherwise in the system folder under our path's hash."""
        inside = self.root / "postgres"
        if account is None:
            return inside
        shutil.rmtree(inside, ignore_errors=True)
        _make(inside, account)
        if account.can('cd "$1" && : >probe && rm probe', inside):
            return inside
        inside.rmdir()
        real = os.path.realpath(self.root)
        outside = system_folder(account) / "data" / hashlib.sha256(os.fsencode(real)).hexdigest()[:16]
        outside.parent.mkdir(exist_ok=True)
        outside.parent.chmod(0o755)
        # a folder that is there was left by a data folder of this name that exists no more
        shutil.rmtree(outside, ignore_errors=True)
        outside.mkdir()
        outside.chmod(0o711)
        write_private(outside / "origin", real)
        return outside / "postgres"

    def contents(self) -> list[Path]:
        """Everything of ours, for deletion."""
        names = ("postgres", "nats", "nats.conf", "servers.json", "postgres.log", "nats.log", "guard.log", "lock")
        found = [*(self.root / name for name in names), self.set_aside]
        if self.record.pgdata is not None and Path(self.record.pgdata).parent != self.root:
            found.append(Path(self.record.pgdata).parent)
        return found


def _make(path: Path, account: Account | None) -> None:
    path.mkdir()
    path.chmod(0o700)
    if account is not None:
        os.chown(path, account.uid, account.gid)


def write_private(path: Path, text: str) -> None:
    """Write a file of mode 0600, all or nothing."""
    scratch = path.with_name(path.name + ".new")
    scratch.unlink(missing_ok=True)
    with open(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    scratch.replace(path)
