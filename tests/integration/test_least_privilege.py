"""The whole system over TLS under the exported roles, and what each role may not do."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from dispatcher.bus import Bus
from dispatcher.cli.main import main
from dispatcher.errors import BusUnavailable, TaskCancelled, TaskFailed
from dispatcher.settings import Settings
from dispatcher.subjects import Subjects
from state.migrate import upgrade
from state.migrations.sql_views import VIEW_NAMES
from state.roles import ROLES, TABLES
from tests.fixtures.apps import LEDGER, app, hold, note, picky
from tests.fixtures.fleet import ROOT, assert_sound, until
from tests.fixtures.patience import PATIENCE
from tests.fixtures.secured import NAMESPACE, Secured


def cli(secured: Secured, role: str, *arguments: str) -> None:
    """One command in this process, as that role."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in secured.environment(role).items():
            patch.setenv(name, value)
        with pytest.raises(SystemExit) as end:
            main(arguments)
    assert end.value.code in (0, None), arguments


@contextmanager
def process(secured: Secured, role: str, log: Path, *arguments: str) -> Iterator[None]:
    """``dispatcher …`` as that role, stopped in order at the end; it was refused nothing."""
    variables = {**os.environ, **secured.environment(role), "PYTHONPATH": str(ROOT)}
    with log.open("wb") as output:
        running = subprocess.Popen(
            [sys.executable, "-m", "dispatcher", *arguments], env=variables, cwd=ROOT, stdout=output, stderr=output
        )
    try:
        yield
    finally:
        running.send_signal(signal.SIGTERM)
        try:
            assert running.wait(PATIENCE) == 0, log.read_text()
        finally:
            running.kill()
    said = log.read_text()
    assert "ermission" not in said and "Traceback" not in said, said


def ledger(home: Path, what: str) -> list[str]:
    return [line for line in (home / "ledger").read_text().splitlines() if line.startswith(f"{what}\t")]


async def _run_cancel_retry_and_pause(secured: Secured, home: Path, publisher: Any, enqueuer: Any, reader: Any) -> None:
    enqueuer.execute("SELECT dispatcher.enqueue('note', '{\"value\": 77}')")
    await until(lambda: [line for line in ledger(home, "ran") if line.endswith("\t77")])
    with publisher.transaction():
        held = hold.enqueue(publisher, "gate")
    await until(lambda: ledger(home, "start"))
    running = reader.execute("SELECT type FROM dispatcher.v_running").fetchall()
    assert running == [("hold",)]
    await asyncio.to_thread(cli, secured, "operator", "tasks", "cancel", str(held.id))
    await until(lambda: ledger(home, "stopped"))
    with pytest.raises(TaskCancelled):
        await held.wait(PATIENCE)
    with publisher.transaction():
        broken = picky.enqueue(publisher, "key")
    with pytest.raises(TaskFailed, match="KeyError"):
        await broken.wait(PATIENCE)
    await asyncio.to_thread(cli, secured, "operator", "tasks", "retry", str(broken.id))
    await asyncio.to_thread(cli, secured, "operator", "queues", "pause", "default")
    with publisher.transaction():
        paused = note.enqueue(publisher, 99)
    parked = "SELECT waits_for FROM dispatcher.v_waiting WHERE id = %s"
    await until(lambda: reader.execute(parked, [paused.id]).fetchall() == [("resume",)])
    await asyncio.to_thread(cli, secured, "operator", "queues", "resume", "default")
    assert await paused.wait(PATIENCE) == 198


def _nobody_speaks_in_plain(secured: Secured, admin: Any) -> None:
    if secured.database_has_tls:
        in_plain = admin.execute(
            "SELECT a.usename, a.application_name FROM pg_stat_activity a JOIN pg_stat_ssl s USING (pid)"
            " WHERE a.usename LIKE %s AND NOT s.ssl",
            [f"{secured.prefix}%"],
        ).fetchall()
        assert in_plain == []


async def test_the_whole_system_runs_under_the_roles_and_over_tls(
    secured: Secured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(LEDGER, str(tmp_path))
    (tmp_path / "ledger").touch()
    owner = secured.settings("owner")
    assert owner.database_url
    await asyncio.to_thread(upgrade, owner.database_url)  # nothing to do, but it may
    await asyncio.to_thread(cli, secured, "operator", "streams", "apply")
    app.configure(secured.settings("publisher"))
    admin = psycopg.connect(secured.admin_url, autocommit=True, row_factory=dict_row)
    with (
        admin,
        process(secured, "relay", tmp_path / "relay.log", "relay"),
        process(secured, "worker", tmp_path / "worker.log", "worker", "tests.fixtures.apps:app", "-c", "4"),
        secured.connect("publisher") as publisher,
        secured.connect("enqueuer") as enqueuer,
        secured.connect("reader") as reader,
    ):
        with publisher.transaction():
            task = note.enqueue(publisher, 21)
            keyed = note.options(key="k", delay=0.1, tags=["t"]).enqueue(publisher, 1)
            many = app.enqueue_many(publisher, [note.call(n) for n in range(5)])
        assert await task.wait(PATIENCE) == 42
        for each in (keyed, *many):
            await each.wait(PATIENCE)
        with publisher.transaction():
            chain = note.call(2).then(note).enqueue(publisher)
            unserved = note.options(queue="unserved", expires=0.1).enqueue(publisher, 1)
        assert await chain.wait(PATIENCE) == 8
        await asyncio.to_thread(cli, secured, "operator", "flows", "show", str(chain.id))
        with pytest.raises(TaskFailed, match="expiry"):
            await unserved.wait(PATIENCE)
        await _run_cancel_retry_and_pause(secured, tmp_path, publisher, enqueuer, reader)

        async def workers() -> Any:
            capsys.readouterr()
            await asyncio.to_thread(cli, secured, "operator", "workers", "list", "--json")
            return json.loads(capsys.readouterr().out)["workers"]

        assert len(await until(workers)) == 1
        for arguments in (["tasks", "list"], ["tasks", "show", str(task.id)], ["tasks", "stats"], ["prune"]):
            await asyncio.to_thread(cli, secured, "operator", *arguments)
        await asyncio.to_thread(cli, secured, "relay", "prune")  # what its leader does by itself
        for view in VIEW_NAMES:
            reader.execute(f"SELECT * FROM dispatcher.{view}")
        _nobody_speaks_in_plain(secured, admin)
    await app.close()
    with psycopg.connect(secured.admin_url, autocommit=True) as connection:
        assert_sound(connection)


FORBIDDEN = {
    "publisher": ["SELECT args FROM {s}.tasks", "UPDATE {s}.tasks SET state = 6", "DELETE FROM {s}.tasks"],
    "enqueuer": ["SELECT FROM {s}.v_tasks", "SELECT {s}.create_task({s}.uuid7(), 't', 'q', 'high', '', 1, 0)"],
    "relay": ["SELECT args FROM {s}.tasks", "SELECT result FROM {s}.tasks", "UPDATE {s}.tasks SET args = ''"],
    "worker": ["INSERT INTO {s}.tasks (id) VALUES (NULL)", "UPDATE {s}.tasks SET args = ''", "DELETE FROM {s}.tasks"],
    "operator": ["UPDATE {s}.tasks SET args = ''", "UPDATE {s}.task_events SET reason = 1", "DROP TABLE {s}.tasks"],
    "reader": ["SELECT FROM {s}.tasks", "SELECT {s}.enqueue('t')", "CREATE TABLE {s}.mine ()"],
}  # fmt: skip


async def test_no_role_may_do_more_than_it_needs(secured: Secured) -> None:
    with psycopg.connect(secured.admin_url, autocommit=True) as admin:
        tables = {
            row[0]
            for row in admin.execute(
                "SELECT relname FROM pg_class WHERE relnamespace = CAST('dispatcher' AS regnamespace) AND relkind = 'r'"
            )
        }
    granted = {table for rights in TABLES.values() for table in rights}
    assert granted == tables, "state/roles.py must say for every table who may do what with it"
    for role, statements in FORBIDDEN.items():
        with secured.connect(role) as connection:
            for statement in [*statements, "UPDATE {s}.task_events SET actor = 'x'"]:
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    connection.execute(statement.replace("{s}", "dispatcher").encode())
    assert FORBIDDEN.keys() == ROLES.keys() - {"owner"}
    await _nats_is_as_narrow(secured)


async def _nats_is_as_narrow(secured: Secured) -> None:
    task, push = f"{NAMESPACE}.tasks.TASKS.default.default", f"{NAMESPACE}.push.TASKS.default.default"
    refused = {
        "publisher": ([task, "$JS.API.STREAM.INFO.guarded-TASKS"], [push, "_INBOX.>"]),
        "relay": (["$JS.API.STREAM.DELETE.guarded-TASKS", "$JS.API.STREAM.PURGE.guarded-TASKS"], [push]),
        "worker": (
            [task, "$JS.API.STREAM.DELETE.guarded-TASKS", f"{NAMESPACE}.ctl.cancel"],
            [push, f"_INBOX_{secured.prefix}relay.>"],
        ),
        "reader": ([task, "$JS.API.STREAM.DELETE.guarded-TASKS"], [push, "$JS.>"]),
    }  # fmt: skip
    for role, (publishing, hearing) in refused.items():
        bus = await Bus.connect(secured.settings(role), name="test", timeout=5)
        said: list[str] = []

        async def heard(error: Exception, said: list[str] = said) -> None:
            said.append(str(error).lower())

        bus._client._error_cb = heard

        async def ignored(message: Any) -> None: ...

        for subject in publishing:
            await bus.publish(subject)
        for subject in hearing:
            await bus.subscribe(subject, ignored)
        try:
            count = len(publishing) + len(hearing)
            await until(lambda said=said, count=count: len(said) >= count, what=f"{role}: refused only {said}")  # type: ignore[misc]
            assert all("permissions violation" in text for text in said)
        finally:
            await bus.close()


async def test_what_a_user_may_not_publish_is_told_once_and_then_not_sent(
    secured: Secured, caplog: pytest.LogCaptureFixture
) -> None:
    """A relay with the rights of an earlier version works on, without a warning for each task."""
    bus = await Bus.connect(secured.settings("worker"), name="test")
    hint = Subjects(NAMESPACE).hint("TASKS", "Billing", "default")
    assert await bus.publish(hint, b"x")

    async def noticed() -> bool:
        return not await bus.publish(hint, b"x")

    await until(noticed)
    await bus._client.flush()  # what was refused before that has been told
    caplog.clear()
    assert not await bus.publish(hint, b"x")
    await bus.close()
    assert "ermission" not in caplog.text


async def test_who_is_not_trusted_is_refused_both_ways(secured: Secured) -> None:
    good = secured.settings("relay")

    async def refusal(**changes: Any) -> str:
        with pytest.raises(BusUnavailable) as failure:
            await Bus.connect(good.model_copy(update=changes), name="test", timeout=0.3)
        assert secured.password not in str(failure.value)
        return str(failure.value).lower()

    assert "certificate verify failed" in await refusal(nats_ca=secured.files / "other.crt")
    assert "mismatch" in await refusal(nats_url=f"tls://127.0.0.1:{secured.nats_port}")
    assert "no nats server answers" in await refusal(nats_cert=None, nats_key=None)
    assert "authorization" in await refusal(nats_password="wrong")
    plain = Settings(database_url=secured.admin_url, nats_url=good.nats_url)
    assert "certificate verify failed" in str(await _refused(plain)).lower()
    if secured.database_has_tls:
        url = str(good.database_url)
        for wrong in (url.replace("ca.crt", "other.crt"), url.replace("@localhost", "@127.0.0.1")):
            with pytest.raises(psycopg.OperationalError, match="certificate"):
                await psycopg.AsyncConnection.connect(wrong)


async def _refused(settings: Settings) -> BusUnavailable:
    with pytest.raises(BusUnavailable) as failure:
        await Bus.connect(settings, name="test", timeout=0.3)
    return failure.value


async def test_a_server_without_tls_never_hears_the_password(settings: Settings) -> None:
    """nats-py would go on in plain text: our own server of the tests offers no TLS."""
    address = str(settings.nats_url).rpartition("@")[2]
    demanding = settings.model_copy(
        update={"nats_url": f"tls://{address}", "nats_user": "u", "nats_password": "never-sent"}
    )
    assert "offers no TLS" in str(await _refused(demanding))
