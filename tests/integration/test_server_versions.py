"""The oldest servers that we support, end to end; ``make versions`` runs the core tests on them and others."""

from __future__ import annotations

import asyncio
import os
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from psycopg.rows import dict_row

from dispatcher.bus import Bus
from dispatcher.embedded import EmbeddedServers
from dispatcher.settings import Settings
from state.migrate import upgrade
from tests.fixtures import apps
from tests.fixtures.fleet import Fleet, assert_sound
from tests.fixtures.servers import Servers

OLD = Path(__file__).resolve().parents[2] / ".venv" / "servers"
POSTGRES, NATS = "15.5", "2.10.26"


@pytest.mark.skipif(not (OLD / f"nats-{NATS}").exists(), reason="'make test' and 'make versions' install the servers")
async def test_a_task_runs_on_the_oldest_supported_servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISPATCHER_PG_BINDIR", str(OLD / f"postgres-{POSTGRES}/pgserver/pginstall/bin"))
    monkeypatch.setenv("DISPATCHER_NATS_SERVER", str(OLD / f"nats-{NATS}/bin/nats-server"))
    monkeypatch.setenv(apps.LEDGER, str(tmp_path))
    (tmp_path / "ledger").touch()
    with EmbeddedServers(tmp_path / "servers", keep=False) as servers:
        assert (servers.postgres_version, servers.nats_version) == (POSTGRES, NATS)
        await asyncio.to_thread(upgrade, servers.database_url)
        settings = Settings(database_url=servers.database_url, nats_url=servers.nats_url, namespace="oldest")
        bus = await Bus.connect(settings, name="test")
        with psycopg.connect(servers.database_url, autocommit=True, row_factory=dict_row) as connection:
            fleet = Fleet(settings, bus, tmp_path, connection)
            fleet.configure(grace=timedelta(seconds=3))
            try:
                await fleet.relay()
                await fleet.worker()
                tasks = fleet.enqueue_many([apps.note.call(n) for n in range(20)])
                failing = fleet.enqueue(apps.flaky.call(1))
                await fleet.all_finish(len(tasks) + 1)
                assert fleet.row(failing)["tries"] == 2
            finally:
                await fleet.close()
                await bus.close()
            assert_sound(connection)


async def test_the_servers_are_those_that_were_asked_for(servers: Servers, bus: Bus) -> None:
    """Otherwise ``make versions`` could test the same servers twice."""
    wanted_postgres, wanted_nats = os.environ.get("DISPATCHER_TEST_VERSIONS", "1 2").split()
    with psycopg.connect(servers.database_url) as connection:
        assert str(connection.info.server_version // 10000) == wanted_postgres.split(".")[0] or wanted_postgres == "1"
    assert bus.server_version.startswith(wanted_nats)
