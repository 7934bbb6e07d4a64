"""Embedded servers that end by themselves are started again, over an empty NATS store when they cannot live on it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from dispatcher.embedded import EmbeddedServers
from dispatcher.embedded.leftovers import is_alive
from dispatcher.embedded.revival import Revival
from tests.fixtures.holder import run, value
from tests.fixtures.patience import until_blocking

GONE = "nats-server was gone and has been started again"
EMPTIED = "nats-server ended again over its store; started with an empty one, the old one is nats.damaged"


def end(servers: EmbeddedServers, pid: int, number: signal.Signals) -> None:
    """From outside, as somebody else or a defect would."""
    os.kill(pid, number)
    until_blocking(lambda: servers.fallen() != {})


def marked(servers: EmbeddedServers) -> Path:
    """A file in the store, by which it is known again."""
    assert servers.data_dir is not None
    mark = servers.data_dir / "nats" / "mark"
    mark.touch()
    return mark


def test_servers_that_were_killed_come_back_with_their_data(own_servers: EmbeddedServers) -> None:
    revival, mark = Revival(own_servers), marked(own_servers)
    run(own_servers.database_url, "CREATE TABLE kept AS SELECT 7 AS n")
    assert revival.look() == []
    end(own_servers, own_servers.postgres_pid, signal.SIGKILL)
    assert revival.look() == ["PostgreSQL was gone and has been started again"]
    assert value(own_servers.database_url, "SELECT n FROM kept") == "7"
    for _ in range(3):  # however often: the store is not to blame
        end(own_servers, own_servers.nats_pid, signal.SIGKILL)
        assert revival.look() == [GONE]
    assert mark.exists()
    assert revival.look() == []


def test_servers_that_we_ended_stay_as_they_are(own_servers: EmbeddedServers) -> None:
    revival = Revival(own_servers)
    own_servers.kill_nats()
    assert revival.look() == []
    own_servers.restart_nats()
    end(own_servers, own_servers.nats_pid, signal.SIGKILL)
    assert revival.look() == [GONE]


def test_a_server_that_ends_again_and_again_gets_an_empty_store(own_servers: EmbeddedServers) -> None:
    revival, mark = Revival(own_servers), marked(own_servers)
    end(own_servers, own_servers.nats_pid, signal.SIGTERM)  # ends with an exit code, as after a panic
    assert revival.look() == [GONE]
    assert mark.exists()
    end(own_servers, own_servers.nats_pid, signal.SIGTERM)
    assert revival.look() == [EMPTIED]
    assert not mark.exists()
    assert (mark.parent.parent / "nats.damaged" / "mark").exists()


def test_a_server_that_cannot_start_over_its_store_gets_an_empty_one(own_servers: EmbeddedServers) -> None:
    assert own_servers.data_dir is not None
    own_servers.kill_nats()
    own_servers.restart_nats(wipe=True)
    end(own_servers, own_servers.nats_pid, signal.SIGKILL)
    store = own_servers.data_dir / "nats"
    for folder in store.iterdir():
        folder.rename(store.parent / "elsewhere")
        folder.write_text("not a folder")
    assert Revival(own_servers).look() == [EMPTIED]
    assert own_servers.fallen() == {}


def test_a_guard_that_is_gone_is_said_and_ends_nobody(own_servers: EmbeddedServers) -> None:
    guard = own_servers.guard_pid
    os.kill(guard, signal.SIGKILL)
    until_blocking(lambda: not is_alive(guard))
    [said] = Revival(own_servers).look()
    assert "guard of the embedded servers is gone" in said
