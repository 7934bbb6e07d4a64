"""Who runs PostgreSQL: ourselves, or as root an unprivileged user, because PostgreSQL refuses to run as root."""

from __future__ import annotations

import os
import pwd
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dispatcher.embedded.errors import EmbeddedError
from dispatcher.embedded.guard_client import plain_environment

__all__ = ["Account", "choose_account", "run_as"]

_CANDIDATES = ("postgres", "nobody", "daemon")


@dataclass(frozen=True)
class Account:
    """An unprivileged user.  It has a name, because ``initdb`` looks its own user up."""

    name: str
    uid: int
    gid: int

    def can(self, script: str, *paths: Path) -> bool:
        """Whether a shell line (with the paths as ``$1`` ...) succeeds as this user: the only test that never errs."""
        return run_as(self, ["/bin/sh", "-c", script, "sh", *map(str, paths)]).returncode == 0


def choose_account(environ: Mapping[str, str], owner: int | None = None) -> Account | None:
    """None when we are not root; otherwise the owner of the data there is, the wished user, or the first that exists.

    ``DISPATCHER_EMBEDDED_USER`` names another user.  Raises EmbeddedError when there is none.
    """
    if os.geteuid() != 0:
        return None
    try:
        if owner is not None:
            return _account(pwd.getpwuid(owner))
        wish = environ.get("DISPATCHER_EMBEDDED_USER")
        for name in (wish,) if wish else _CANDIDATES:
            try:
                return _account(pwd.getpwnam(name))
            except KeyError:
                continue
    except KeyError:
        raise EmbeddedError(f"the PostgreSQL data belongs to user id {owner}, which has no name here") from None
    raise EmbeddedError(
        "PostgreSQL does not run as root and none of the users "
        f"{wish or ', '.join(_CANDIDATES)} exists; set DISPATCHER_EMBEDDED_USER to an unprivileged user"
    )


def _account(entry: pwd.struct_passwd) -> Account:
    if entry.pw_uid == 0:
        raise EmbeddedError(f"PostgreSQL does not run as {entry.pw_name} (user id 0); choose an unprivileged user")
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)


def run_as(account: Account | None, argv: list[str], stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run a short program as that user (None: as ourselves) in a plain environment; output is captured."""
    try:
        if account is None:
            return _run(argv, stdin)
        return _run(argv, stdin, account)
    except PermissionError as error:
        if account is not None and error.filename is None:
            raise EmbeddedError(f"root may not change to user {account.name} here: {error}") from error
        return subprocess.CompletedProcess(argv, 126, "", str(error))
    except OSError as error:
        return subprocess.CompletedProcess(argv, 127, "", str(error))


def _run(argv: list[str], stdin: str, account: Account | None = None) -> subprocess.CompletedProcess[str]:
    # fmt: off
    return subprocess.run(
        argv, input=stdin, capture_output=True, text=True, env=plain_environment(), cwd="/", timeout=120, umask=0o077,
        check=False, user=None if account is None else account.uid, group=None if account is None else account.gid,
        extra_groups=None if account is None else [],
    )
    # fmt: on
