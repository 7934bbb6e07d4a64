"""A pooler that the settings know nothing of is named, with the cure, before anything is taken from anybody."""

from __future__ import annotations

import asyncio
from typing import Any

import psycopg
import pytest

from dispatcher.cli import asking
from dispatcher.errors import ConfigurationError
from dispatcher.settings import Settings
from tests.fixtures import apps
from tests.fixtures.commands import Ran
from tests.fixtures.fleet import Fleet
from tests.fixtures.patience import PATIENCE
from tests.fixtures.pooler import Pooler

CURE = "DISPATCHER_DIRECT_DATABASE_URL"
WORKER = ("worker", "tests.fixtures.apps:app")


@pytest.fixture(params=["refused", "swallowed"])
def unknown(request: pytest.FixtureRequest, pooler: Pooler, fleet: Fleet) -> Fleet:
    """The way leads through a pooler that refuses start-up options, as it does by itself, or was told to drop them."""
    if request.param == "swallowed":
        pooler.kill()
        pooler.start(ignore_startup_parameters="options")
    fleet.configure(database_url=pooler.url)
    return fleet


@pytest.mark.parametrize("arguments", [WORKER, ("relay",)], ids=["worker", "relay"])
async def test_relay_and_worker_refuse_to_start(unknown: Fleet, arguments: tuple[str, ...]) -> None:
    process = unknown.process(*arguments)
    assert await process.ended() == 2
    assert CURE in process.output
    assert len(process.output.splitlines()) == 1, process.output


async def test_a_way_past_it_that_leads_through_it_is_refused_too(unknown: Fleet, pooler: Pooler) -> None:
    unknown.configure(direct_database_url=pooler.url)
    process = unknown.process("relay")
    assert await process.ended() == 2
    assert CURE in process.output
    assert len(process.output.splitlines()) == 1, process.output


async def test_commands_and_waits_name_it(pooler: Pooler, fleet: Fleet, cli: Any) -> None:
    task = fleet.enqueue(apps.note.call(1))
    ran = cli("tasks", "list", "--database-url", pooler.url)
    assert (ran.code, ran.err.count("\n"), CURE in ran.err) == (2, 1, True)
    fleet.configure(database_url=pooler.url)
    with pytest.raises(ConfigurationError, match=CURE):
        await task.wait(PATIENCE)


async def test_with_the_cure_commands_go_through_it_and_changes_of_the_tables_past_it(
    pooled_fleet: Fleet, pooler: Pooler, cli: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = pooled_fleet.enqueue(apps.note.call(1))
    monkeypatch.setenv("DISPATCHER_DATABASE_URL", pooler.url)
    monkeypatch.setenv(CURE, pooler.direct_url)

    async def code(*arguments: object) -> int:
        ran: Ran = await asyncio.to_thread(cli, *arguments)
        return ran.code

    listed: Ran = await asyncio.to_thread(cli, "tasks", "list", "--json")
    assert [row["id"] for row in listed.json["tasks"]] == [str(task.id)]
    for command in ("tasks show {}", "tasks cancel {}", "tasks delete --state cancelled --yes", "queues list"):
        assert await code(*command.format(task.id).split()) == 0, command
    assert pooled_fleet.state(task) == "cancelled"
    pooler.kill()
    for command in ("migrate status --check", "migrate up", "prune"):
        assert await code(*command.split()) == 0, command
    assert await code("tasks", "list") == 5


def test_what_a_command_asks_for_takes_no_longer_by_way_of_it(
    pooler: Pooler, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "_SECONDS", 0.2)
    with asking.asking(pooler.settings(settings)) as connection:
        with pytest.raises(psycopg.errors.QueryCanceled):
            connection.execute("SELECT pg_sleep(60)")
        assert connection.execute("SELECT 1").fetchall() == [(1,)]
