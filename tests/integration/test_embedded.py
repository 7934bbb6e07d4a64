"""The embedded servers: credentials, data kept, crashes, lost ports, and nothing left behind however we end."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from dispatcher.embedded import EmbeddedError, EmbeddedServers
from dispatcher.embedded.leftovers import is_alive
from dispatcher.embedded.ports import HOST, free_port, is_free
from tests.fixtures.holder import SMALL, Holder, run, value
from tests.fixtures.patience import until_blocking


def test_durability_stays_on_and_memory_is_mapped(own_servers: EmbeddedServers) -> None:
    for name in ("fsync", "full_page_writes", "synchronous_commit"):
        assert value(own_servers.database_url, f"SHOW {name}") == "on"
    assert value(own_servers.database_url, "SHOW dynamic_shared_memory_type") == "mmap"
    assert value(own_servers.database_url, "SHOW shared_preload_libraries") == "pg_stat_statements"
    assert value(own_servers.database_url, "SHOW server_encoding") == "UTF8"
    kind = "SELECT concat(datlocprovider, datlocale) FROM pg_database WHERE datname = current_database()"
    if int(own_servers.postgres_version.split(".")[0]) >= 17:
        assert value(own_servers.database_url, kind) == "bC.UTF-8"


def test_credentials_are_needed_and_private(own_servers: EmbeddedServers) -> None:
    wrong = own_servers.database_url.replace("dispatcher:", "dispatcher:x", 1)
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(wrong)
    assert own_servers.data_dir is not None
    for name in ("servers.json", "nats.conf"):
        assert stat.S_IMODE((own_servers.data_dir / name).stat().st_mode) == 0o600
    secret = own_servers.database_url.split(":")[2].split("@")[0]
    for pid in (own_servers.postgres_pid, own_servers.nats_pid, own_servers.guard_pid):
        if sys.platform.startswith("linux"):
            assert secret not in Path(f"/proc/{pid}/cmdline").read_text()
    assert _nats(own_servers.nats_url, token="wrong").startswith("-ERR 'Authorization Violation'")
    assert _nats(own_servers.nats_url) == "PONG"


def _nats(url: str, token: str | None = None) -> str:
    """What a NATS server says to that token: PONG or an error."""
    real, _, address = url.removeprefix("nats://").partition("@")
    host, port = address.split(":")
    with socket.create_connection((host, int(port)), timeout=10) as sock, sock.makefile("rwb") as stream:
        stream.readline()
        options = json.dumps({"auth_token": token or real, "verbose": False}).encode()
        stream.write(b"CONNECT " + options + b"\r\nPING\r\n")
        stream.flush()
        return stream.readline().decode().strip()


def test_data_is_kept_from_one_start_to_the_next(data_dir: Path) -> None:
    servers = EmbeddedServers(data_dir, postgres_settings=SMALL)
    with servers:
        first = servers.database_url, servers.nats_url
        run(servers.database_url, "CREATE TABLE kept AS SELECT 7 AS n")
    assert servers.data_dir == data_dir
    with servers:
        assert (servers.database_url, servers.nats_url) == first, "ports and credentials stay when the ports are free"
        assert value(servers.database_url, "SELECT n FROM kept") == "7"
    _throw_away(data_dir)


def _throw_away(data_dir: Path) -> None:
    """Give back what may lie outside of the test's folder."""
    with EmbeddedServers(data_dir, postgres_settings=SMALL, keep=False):
        pass


def test_a_taken_port_is_replaced(data_dir: Path) -> None:
    servers = EmbeddedServers(data_dir, postgres_settings=SMALL, keep=False)
    with EmbeddedServers(data_dir, postgres_settings=SMALL) as first:
        ports = [int(url.rpartition(":")[2].split("/")[0]) for url in (first.database_url, first.nats_url)]
    taken = [socket.create_server((HOST, port)) for port in ports]
    try:
        with servers:
            assert not any(f":{port}" in servers.database_url + servers.nats_url for port in ports)
            assert value(servers.database_url, "SELECT 1") == "1"
    finally:
        for sock in taken:
            sock.close()


def test_a_port_lost_between_look_and_start_is_tried_again(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else listens, but the look before said that the port is free."""
    with socket.create_server((HOST, 0)) as thief:
        stolen = [thief.getsockname()[1]] * 2
        monkeypatch.setattr(
            "dispatcher.embedded.servers.free_port", lambda wished: stolen.pop() if stolen else free_port(wished)
        )
        with EmbeddedServers(data_dir, postgres_settings=SMALL, keep=False) as servers:
            assert value(servers.database_url, "SELECT 1") == "1"
            assert _nats(servers.nats_url) == "PONG"
    assert not stolen


def test_free_ports_lie_below_those_of_outgoing_connections() -> None:
    port = free_port()
    assert is_free(port)
    assert free_port(port) == port
    if Path("/proc/sys/net/ipv4/ip_local_port_range").exists():
        assert port < int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])


def test_crashed_servers_come_back_with_their_data(own_servers: EmbeddedServers) -> None:
    run(own_servers.database_url, "CREATE TABLE kept AS SELECT 7 AS n")
    before = own_servers.database_url, own_servers.nats_url
    own_servers.kill_postgres()
    own_servers.kill_nats()
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(own_servers.database_url)
    own_servers.restart_postgres()
    own_servers.restart_nats()
    assert (own_servers.database_url, own_servers.nats_url) == before
    assert value(own_servers.database_url, "SELECT n FROM kept") == "7"
    assert _nats(own_servers.nats_url) == "PONG"


def test_frozen_servers_are_stopped_all_the_same(data_dir: Path) -> None:
    servers = EmbeddedServers(data_dir, postgres_settings=SMALL, keep=False)
    servers.start()
    pids = [servers.postgres_pid, servers.nats_pid]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    servers.stop()
    assert not any(map(is_alive, pids))
    servers.stop()  # a second time does nothing


@pytest.mark.parametrize("victim", ["holder", "guard", "both"])
def test_nothing_is_left_behind_by_kill_9(data_dir: Path, hold: Callable[..., Holder], victim: str) -> None:
    holder = hold(data_dir)
    run(holder.url, "CREATE TABLE kept AS SELECT 7 AS n")
    if victim != "holder":
        os.kill(holder.pids[2], signal.SIGKILL)
    if victim != "guard":
        holder.process.kill()
    until_blocking(lambda: not any(map(is_alive, holder.pids[:2])))
    holder.kill()
    with EmbeddedServers(data_dir, postgres_settings=SMALL, keep=False) as servers:
        assert value(servers.database_url, "SELECT n FROM kept") == "7"


def test_nothing_is_left_behind_under_an_init_that_does_not_reap(data_dir: Path, hold: Callable[..., Holder]) -> None:
    """The killed holder stays a zombie, as it does in a container whose first process reaps nothing."""
    holder = hold(data_dir)
    os.kill(holder.process.pid, signal.SIGKILL)
    os.waitid(os.P_PID, holder.process.pid, os.WEXITED | os.WNOWAIT)
    until_blocking(lambda: not any(map(is_alive, holder.pids)))
    with EmbeddedServers(data_dir, postgres_settings=SMALL, keep=False) as servers:  # while the zombie is still there
        assert value(servers.database_url, "SELECT 1") == "1"
    holder.end()


def test_start_right_after_kill_9_waits_for_the_old_servers(data_dir: Path, hold: Callable[..., Holder]) -> None:
    holder = hold(data_dir)
    holder.kill()
    with EmbeddedServers(data_dir, postgres_settings=SMALL, keep=False) as servers:
        assert value(servers.database_url, "SELECT 1") == "1"


def test_thrown_away_data_is_deleted_even_by_kill_9(data_dir: Path, hold: Callable[..., Holder]) -> None:
    holder = hold(data_dir, "throw")
    place = Path(value(holder.url, "SHOW data_directory"))
    assert place.exists()
    holder.kill()
    until_blocking(lambda: not any(map(is_alive, holder.pids)))
    assert not place.exists()
    assert list(data_dir.iterdir()) == []


def test_second_start_names_the_first_holder(data_dir: Path, hold: Callable[..., Holder]) -> None:
    holder = hold(data_dir)
    with pytest.raises(EmbeddedError, match=f"already run by process {holder.process.pid}"):
        EmbeddedServers(data_dir).start()
    assert value(holder.url, "SELECT 1") == "1"
    holder.kill()
    _throw_away(data_dir)


def test_second_start_in_the_same_process_is_refused(own_servers: EmbeddedServers) -> None:
    with pytest.raises(EmbeddedError, match=f"already run by process {os.getpid()}"):
        EmbeddedServers(own_servers.data_dir).start()
    with pytest.raises(EmbeddedError, match="already started"):
        own_servers.start()


@pytest.mark.parametrize("pid", ["1", "zombie"])
def test_stale_pid_file_is_no_obstacle(data_dir: Path, pid: str) -> None:
    """It names a process that somebody else has now, or a zombie."""
    with EmbeddedServers(data_dir, postgres_settings=SMALL) as servers:
        place = Path(value(servers.database_url, "SHOW data_directory"))
        lines = (place / "postmaster.pid").read_text().splitlines()
    zombie = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)
    lines[0] = str(zombie.pid) if pid == "zombie" else pid
    (place / "postmaster.pid").write_text("\n".join(lines) + "\n")
    with EmbeddedServers(data_dir, postgres_settings=SMALL, keep=False) as servers:
        assert value(servers.database_url, "SELECT 1") == "1"
    zombie.wait()


def test_half_made_database_is_made_again(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(
            "dispatcher.embedded.database.Database._sync", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        with pytest.raises(KeyboardInterrupt):
            EmbeddedServers(data_dir, postgres_settings=SMALL).start()
    with EmbeddedServers(data_dir, postgres_settings=SMALL, keep=False) as servers:
        assert value(servers.database_url, "SELECT 1") == "1"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"fsync": "off"}, "fsync is decided"),
        ({"synchronous_commit": "off"}, "synchronous_commit is decided"),
        ({"port": "5432"}, "port is decided"),
        ({"shared buffers": "1GB"}, "'shared buffers' is not the name"),
    ],
)
def test_settings_that_may_not_change_are_refused(settings: dict[str, str], said: str) -> None:
    with pytest.raises(EmbeddedError, match=said):
        EmbeddedServers(postgres_settings=settings)


def test_wrong_setting_is_reported_in_one_line(data_dir: Path) -> None:
    with pytest.raises(EmbeddedError, match=r"postgres did not start.*no_such_setting") as caught:
        EmbeddedServers(data_dir, postgres_settings={"no_such_setting": "1"}, keep=False).start()
    assert "\n" not in str(caught.value)


def test_missing_programs_are_named_with_the_cure(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISPATCHER_NATS_SERVER", "/nonexistent/nats-server")
    with pytest.raises(EmbeddedError, match="DISPATCHER_NATS_SERVER: /nonexistent/nats-server is not a program"):
        EmbeddedServers(data_dir, keep=False).start()
    monkeypatch.setenv("DISPATCHER_PG_BINDIR", "/nonexistent")
    with pytest.raises(EmbeddedError, match="cannot run /nonexistent/postgres"):
        EmbeddedServers(data_dir, keep=False).start()


def test_a_temporary_folder_is_gone_afterwards() -> None:
    with EmbeddedServers(keep=False, postgres_settings=SMALL) as servers:
        assert servers.data_dir is not None
        assert servers.data_dir.exists()
    assert not servers.data_dir.exists()


@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_stop_in_a_forked_child_leaves_the_parents_servers_alone(own_servers: EmbeddedServers) -> None:
    pid = os.fork()
    if pid == 0:
        own_servers.stop()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert value(own_servers.database_url, "SELECT 1") == "1"
