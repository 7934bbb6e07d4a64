"""streams.conf against a real NATS server and a real database: plan, apply, repair, refuse."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from dispatcher.bus import Bus
from dispatcher.errors import BusError, ConfigurationError
from dispatcher.settings import Settings
from dispatcher.streams.apply import apply
from dispatcher.streams.config import QueueConfig, StreamConfig, StreamsConfig, loads
from dispatcher.streams.ensure import ensure_consumer, ensure_stream, set_max_ack_pending
from dispatcher.streams.plan import Lane, plan
from dispatcher.streams.registry import register_queues
from dispatcher.streams.server import list_consumers, parse_version, put_consumer, read_consumer, read_stream
from dispatcher.streams.verify import verify
from dispatcher.streams.wanted import consumer_document, stream_document
from dispatcher.subjects import Subjects
from state.registry import LANE_MAP, REGISTER_QUEUE, REGISTER_TYPES, TYPE_IDS
from tests.fixtures.commands import Ran

MAIL = Lane("TASKS", "mail", "high")


@pytest.fixture
def subjects(settings: Settings) -> Subjects:
    return Subjects(settings.namespace)


@pytest.fixture
def stream(subjects: Subjects) -> str:
    return subjects.stream_name("TASKS")


def conf(text: str = "") -> StreamsConfig:
    return loads(text)


async def actions(config: StreamsConfig, bus: Bus, subjects: Subjects, *lanes: Lane) -> dict[str, str]:
    return {change.name: change.action for change in await plan(config, bus, subjects, lanes)}


async def raw_stream(bus: Bus, ours: Subjects, name: str, **changes: Any) -> None:
    document = {**stream_document(ours, "TASKS", StreamConfig()), "name": name, **changes}
    await bus.api(f"STREAM.CREATE.{name}", document)


async def raw_consumer(bus: Bus, subjects: Subjects, **changes: Any) -> None:
    document = {**consumer_document(subjects, *MAIL, QueueConfig()), **changes}
    await put_consumer(bus, subjects.stream_name("TASKS"), document, "create")


async def max_ack_pending(bus: Bus, subjects: Subjects) -> int:
    info = await read_consumer(bus, subjects.stream_name("TASKS"), "mail--high")
    assert info is not None
    return int(info["config"]["max_ack_pending"])


async def test_apply_makes_what_is_missing_and_then_changes_nothing(bus: Bus, subjects: Subjects, stream: str) -> None:
    config = conf('[streams.BULK]\nmax_bytes = "1MB"')
    assert await actions(config, bus, subjects, MAIL) == dict.fromkeys(
        [stream, subjects.stream_name("BULK"), "mail--high"], "create"
    )
    await apply(config, bus, subjects, [MAIL])
    before = await read_stream(bus, stream)
    assert set((await actions(config, bus, subjects, MAIL)).values()) == {"unchanged"}
    await apply(config, bus, subjects, [MAIL])
    assert await read_stream(bus, stream) == before
    assert before is not None and before.config["max_consumers"] == 4000
    assert before.config["metadata"]["managed_by"] == "jetstream-dispatcher"


async def test_what_differs_is_changed_in_place(bus: Bus, subjects: Subjects, stream: str) -> None:
    await apply(conf(), bus, subjects, [MAIL])
    created = await ensure_stream(bus, subjects, "TASKS", StreamConfig())
    changed = conf('[defaults]\nmax_bytes = "1MB"\nduplicate_window = "30s"\n[queues.mail]\nack_wait = "20s"')
    assert await actions(changed, bus, subjects) == {stream: "update", "mail--high": "update"}
    await apply(changed, bus, subjects)
    found = await read_stream(bus, stream)
    assert found is not None and found.created == created
    assert (found.config["max_bytes"], found.config["duplicate_window"]) == (2**20, 30 * 10**9)
    info = await read_consumer(bus, stream, "mail--high")
    assert info is not None and info["config"]["ack_wait"] == 20 * 10**9


@pytest.mark.parametrize(
    ("field", "wrong"), [("retention", "limits"), ("storage", "memory"), ("retention", "interest")]
)
async def test_a_stream_that_contradicts_the_file_is_refused_naming_the_field(
    bus: Bus, subjects: Subjects, stream: str, field: str, wrong: str
) -> None:
    await raw_stream(bus, subjects, stream, **{field: wrong})
    assert (await actions(conf(), bus, subjects))[stream] == "forbidden"
    for refusing in (
        verify(conf(), bus, subjects),
        apply(conf(), bus, subjects),
        ensure_stream(bus, subjects, "TASKS", StreamConfig()),
    ):
        with pytest.raises(ConfigurationError, match=rf"stream {stream}: {field}: {wrong} on the server, wanted"):
            await refusing


async def test_replicas_that_a_single_server_cannot_give_are_refused(bus: Bus, subjects: Subjects) -> None:
    three = StreamConfig(num_replicas=3)
    with pytest.raises(ConfigurationError, match="num_replicas"):
        await ensure_stream(bus, subjects, "TASKS", three)
    await ensure_stream(bus, subjects, "TASKS", StreamConfig())
    with pytest.raises(ConfigurationError, match=r"num_replicas: 1 on the server, wanted 3 .*not part of a cluster"):
        await ensure_stream(bus, subjects, "TASKS", three)


async def test_a_stream_of_others_on_our_subjects_is_named(bus: Bus, subjects: Subjects) -> None:
    other = f"other-{subjects.namespace}"
    await raw_stream(bus, subjects, other, subjects=[f"{subjects.namespace}.>"])
    with pytest.raises(ConfigurationError, match=rf"already belong to stream {other}; choose another"):
        await verify(conf(), bus, subjects)
    assert (await actions(conf(), bus, subjects))[other] == "extra"


async def test_more_storage_than_the_server_has_is_refused_naming_the_field(bus: Bus, subjects: Subjects) -> None:
    with pytest.raises(ConfigurationError, match="max_bytes: the server refuses it"):
        await ensure_stream(bus, subjects, "TASKS", StreamConfig(max_bytes=2**60))


async def test_many_processes_may_make_the_same_things_at_once(bus: Bus, subjects: Subjects) -> None:
    one, two = StreamConfig(), StreamConfig(max_msgs=10_000)
    created = await asyncio.gather(*(ensure_stream(bus, subjects, "TASKS", c) for c in [one, two] * 8))
    assert len(set(created)) == 1
    await asyncio.gather(*(ensure_consumer(bus, subjects, *MAIL, limit) for limit in range(10, 26)))
    assert len(await list_consumers(bus, subjects.stream_name("TASKS"))) == 1


async def test_verify_makes_what_was_deleted_and_tells_the_new_creation_time(
    bus: Bus, subjects: Subjects, stream: str
) -> None:
    first = await verify(conf(), bus, subjects, [MAIL])
    again = await verify(conf(), bus, subjects, [MAIL])
    assert again.created == first.created and not again.repaired
    await bus.api(f"CONSUMER.DELETE.{stream}.mail--high")
    repaired = await verify(conf(), bus, subjects, [MAIL], repair=False)
    assert [change.name for change in repaired.repaired] == ["mail--high"]
    await bus.api(f"STREAM.DELETE.{stream}")
    wiped = await verify(conf(), bus, subjects, [MAIL])
    assert wiped.created["TASKS"] not in ("", first.created["TASKS"])
    assert {change.kind for change in wiped.repaired} == {"stream", "consumer"}


async def test_verify_without_repair_only_warns_of_drift(bus: Bus, subjects: Subjects, stream: str) -> None:
    await raw_stream(bus, subjects, stream, max_msgs=5)
    told = await verify(conf(), bus, subjects, repair=False)
    assert any("max_msgs: 5 -> unlimited" in warning for warning in told.warnings)
    found = await read_stream(bus, stream)
    assert found is not None and found.config["max_msgs"] == 5
    assert [change.action for change in (await verify(conf(), bus, subjects)).repaired] == ["update"]


async def test_the_leaders_flow_control_changes_one_field_and_survives_everything(
    bus: Bus, subjects: Subjects, stream: str
) -> None:
    config = conf("[queues.mail]\nmax_ack_pending = 500")
    await ensure_stream(bus, subjects, "TASKS", config.streams["TASKS"])
    await ensure_consumer(bus, subjects, *MAIL, 9_999, config.queue("mail"))
    assert await max_ack_pending(bus, subjects) == 500
    before = await read_consumer(bus, stream, "mail--high")
    assert await set_max_ack_pending(bus, subjects, *MAIL, 40)
    assert not await set_max_ack_pending(bus, subjects, *MAIL, 40)
    after = await read_consumer(bus, stream, "mail--high")
    assert before is not None and after is not None
    assert after["config"] == {**before["config"], "max_ack_pending": 40}
    await ensure_consumer(bus, subjects, *MAIL, 9_999, config.queue("mail"))
    await apply(config, bus, subjects, [MAIL])
    await verify(config, bus, subjects, [MAIL])
    assert await max_ack_pending(bus, subjects) == 40
    await apply(conf("[queues.mail]\nmax_ack_pending = 30\nack_wait = '9s'"), bus, subjects)
    assert await max_ack_pending(bus, subjects) == 30
    with pytest.raises(BusError, match="consumer no--high"):
        await set_max_ack_pending(bus, subjects, "TASKS", "no", "high", 1)


async def test_a_consumer_that_cannot_be_changed_is_refused_and_recreated_on_request(
    bus: Bus, subjects: Subjects, stream: str
) -> None:
    await ensure_stream(bus, subjects, "TASKS", StreamConfig())
    await raw_consumer(bus, subjects, idle_heartbeat=5 * 10**9, flow_control=True)
    await bus.store([(subjects.lane(*MAIL), b"x", "1")], 5)
    with pytest.raises(ConfigurationError, match=r"mail--high.*idle_heartbeat: 5s on the server.*apply --recreate"):
        await ensure_consumer(bus, subjects, *MAIL, 10)
    with pytest.raises(ConfigurationError, match="flow_control"):
        await apply(conf(), bus, subjects)
    await apply(conf(), bus, subjects, recreate=True)
    info = await read_consumer(bus, stream, "mail--high")
    assert info is not None and "idle_heartbeat" not in info["config"] and info["num_pending"] == 1


async def test_drift_of_a_consumer_is_set_right(bus: Bus, subjects: Subjects) -> None:
    await ensure_stream(bus, subjects, "TASKS", StreamConfig())
    await raw_consumer(bus, subjects, max_deliver=5, deliver_group="x", deliver_subject="elsewhere", ack_wait=10**10)
    await ensure_consumer(bus, subjects, *MAIL, 10)
    assert set((await actions(conf(), bus, subjects)).values()) == {"unchanged"}


async def test_a_server_that_drops_a_field_is_found_out(
    bus: Bus, subjects: Subjects, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = bus.api

    async def deaf(subject: str, payload: dict[str, Any] | None = None, timeout: float = 5.0) -> dict[str, Any]:
        answer = await ask(subject, payload, timeout)
        if subject.startswith("STREAM.CREATE"):
            answer["config"].pop("compression")
        return answer

    monkeypatch.setattr(bus, "api", deaf)
    with pytest.raises(ConfigurationError, match="did not take compression: unset -> s2"):
        await ensure_stream(bus, subjects, "TASKS", StreamConfig(compression="s2"))


async def test_max_consumers_of_an_old_stream(bus: Bus, subjects: Subjects, stream: str) -> None:
    await raw_stream(bus, subjects, stream, max_consumers=-1)
    if parse_version(bus.server_version) >= (2, 12, 7):
        await ensure_stream(bus, subjects, "TASKS", StreamConfig())
    else:
        with pytest.raises(ConfigurationError, match="max_consumers: unlimited on the server, wanted 4000"):
            await ensure_stream(bus, subjects, "TASKS", StreamConfig())


async def test_nothing_is_deleted_without_prune_and_no_stream_with_messages(
    bus: Bus, subjects: Subjects, stream: str
) -> None:
    bulk = subjects.stream_name("BULK")
    await apply(conf("[streams.BULK]"), bus, subjects, [MAIL, Lane("TASKS", "mail", "low")])
    await put_consumer(
        bus,
        stream,
        {"durable_name": "foreign", "filter_subject": subjects.lane("TASKS", "x", "y"), "ack_policy": "explicit"},
        "create",
    )
    await bus.store([(subjects.lane("BULK", "a", "high"), b"x", "1")], 5)
    less = conf("[queues.mail]\nlanes = ['high']")
    extra = {bulk: "extra", "mail--low": "extra", "foreign": "extra"}
    assert await actions(less, bus, subjects) == {stream: "unchanged", "mail--high": "unchanged", **extra}
    await apply(less, bus, subjects)
    assert set(await list_consumers(bus, stream)) == {"mail--high", "mail--low", "foreign"}
    notes = {change.name: change.note for change in await apply(less, bus, subjects, prune=True)}
    assert notes[bulk] == "kept: it still holds 1 messages" and notes["mail--low"] == "deleted"
    assert set(await list_consumers(bus, stream)) == {"mail--high", "foreign"}
    await bus.api(f"STREAM.PURGE.{bulk}")
    await apply(less, bus, subjects, prune=True)
    assert await read_stream(bus, bulk) is None


async def test_hundreds_of_consumers_are_compared_in_a_few_calls(
    bus: Bus, subjects: Subjects, monkeypatch: pytest.MonkeyPatch
) -> None:
    lanes = [Lane("TASKS", f"q{number}", "high") for number in range(300)]
    await verify(conf(), bus, subjects, lanes)
    calls: list[str] = []
    ask = bus.api

    async def counted(subject: str, payload: dict[str, Any] | None = None, timeout: float = 5.0) -> dict[str, Any]:
        calls.append(subject)
        return await ask(subject, payload, timeout)

    monkeypatch.setattr(bus, "api", counted)
    assert not (await verify(conf(), bus, subjects, lanes)).repaired
    assert len(calls) == 4  # stream, two pages of consumers, names of streams


def test_queues_and_lanes_are_registered_idempotently(settings: Settings) -> None:
    config = conf("[streams.BULK]\n[queues.mail]\nstream = 'BULK'\nlanes = ['a', 'b']\n[queues.plain]")
    schema = settings.db_schema
    with psycopg.connect(settings.database_url or "", autocommit=True) as connection:
        assert register_queues(connection, config, schema) == ["mail", "plain"]
        assert register_queues(connection, config, schema) == []
        moved = conf("[queues.mail]\nlanes = {b = 1, c = 2}")
        assert register_queues(connection, moved, schema) == ["mail"]
        rows = connection.execute(LANE_MAP.psycopg(schema)).fetchall()
        assert [row[1:5] for row in rows] == [
            ("mail", "b", "TASKS", 1),
            ("mail", "c", "TASKS", 2),
            ("mail", "a", "TASKS", 10),
            ("plain", "high", "TASKS", 10),
            ("plain", "default", "TASKS", 20),
            ("plain", "low", "TASKS", 30),
        ]
        assert all(row[6] is False for row in rows) and len({row[0] for row in rows}) == 6


def test_task_types_are_registered_and_null_options_change_nothing(settings: Settings) -> None:
    with psycopg.connect(settings.database_url or "", autocommit=True) as connection:
        for names, options in ((["a", "b"], ['{"queue": "x"}', None]), (["a", "a"], [None, None])):
            connection.execute(REGISTER_TYPES.psycopg(settings.db_schema), {"names": names, "options": options})
        assert connection.execute("SELECT name, options FROM dispatcher.types ORDER BY name").fetchall() == [
            ("a", {"queue": "x"}),
            ("b", None),
        ]
        known = connection.execute(TYPE_IDS.psycopg(settings.db_schema), {"names": ["b", "nobody"]}).fetchall()
        assert [name for _, name in known] == ["b"]


async def test_the_registration_also_runs_on_numbered_parameters(settings: Settings) -> None:
    asyncpg: Any = pytest.importorskip("asyncpg")
    text, names = REGISTER_QUEUE.numbered(settings.db_schema)
    values = {"name": "q", "stream": "TASKS", "lanes": ["x"], "priorities": [1]}
    connection = await asyncpg.connect(settings.database_url)
    try:
        assert await connection.fetchval(text, *(values[name] for name in names)) is True
        assert await connection.fetchval(text, *(values[name] for name in names)) is False
    finally:
        await connection.close()


async def test_command_line(
    bus: Bus, stream: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Callable[..., Ran]
) -> None:
    file = tmp_path / "streams.conf"
    monkeypatch.setenv("DISPATCHER_STREAMS_CONF", str(file))

    async def run(*arguments: str) -> tuple[int, Any, str]:
        ran = await asyncio.to_thread(cli, "streams", *arguments)
        return ran.code, ran.json if "--json" in arguments or "export" in arguments else ran.out, ran.err

    file.write_text("[queues.mail]\nlanes = ['x']\n")
    assert (await run("validate"))[0] == 0
    code, data, _ = await run("diff", "--json")
    assert code == 4 and data["counts"]["create"] == 1 and not data["in_sync"]
    code, text, _ = await run("plan")
    assert code == 0 and f"+ stream {stream}: create" in text
    code, data, _ = await run("apply", "--json")
    assert code == 0 and data["queues_registered"] == ["mail"]
    code, data, _ = await run("diff", "--json")
    assert code == 0 and data["in_sync"]
    code, data, _ = await run("export")
    assert data["streams"][0]["name"] == stream and data["consumers"][0]["config"]["durable_name"] == "mail--x"
    file.write_text("[streams.TASKS]\nmax_msg = 3\n")
    code, data, _ = await run("validate", "--json")
    assert code == 2 and data["problems"][0]["line"] == 2
    code, text, errors = await run("apply")
    assert code == 2 and f"{file}:2: streams.TASKS.max_msg: unknown field" in errors and not text
    file.write_text("[streams.TASKS]\nstorage = 'memory'\n")
    code, _, errors = await run("apply", "--skip-database")
    assert code == 2 and "storage: file on the server, wanted memory" in errors


async def test_a_stream_that_vanishes_between_look_and_write_is_made_anew(bus: Bus, subjects: Subjects) -> None:
    await ensure_stream(bus, subjects, "TASKS", StreamConfig())
    stream = subjects.stream_name("TASKS")
    ask, gone = bus.api, False

    async def racing(subject: str, payload: dict[str, Any] | None = None, timeout: float = 5.0) -> dict[str, Any]:
        nonlocal gone
        if subject.startswith("STREAM.UPDATE") and not gone:
            gone = True
            await ask(f"STREAM.DELETE.{stream}")
        return await ask(subject, payload, timeout)

    bus.api = racing  # type: ignore[method-assign]
    assert await ensure_stream(bus, subjects, "TASKS", StreamConfig(duplicate_window=timedelta(seconds=9)))
    assert gone
