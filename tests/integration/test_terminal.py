"""``tasks tail``, ``top`` and ``worker --reload`` as processes, watched from outside like a person would."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import signal
import subprocess
from pathlib import Path
from typing import Any

from dispatcher.dev.child import command_line, environment
from dispatcher.settings import Settings
from tests.fixtures.apps import flaky, note, raising
from tests.fixtures.commands import answered
from tests.fixtures.fleet import Fleet, Process, until
from tests.fixtures.patience import PATIENCE


def moves(process: Process) -> list[dict[str, Any]]:
    return [json.loads(line) for line in process.output.splitlines() if line.startswith("{")]


async def following(fleet: Fleet, *args: str) -> Process:
    """A tail that listens already: what it listens to is counted by the server before it says so."""
    process = fleet.process("tasks", "tail", "--json", *args)
    await until(lambda: "following" in process.output or process.popen.poll() is not None)
    assert process.popen.poll() is None, process.output
    return process


async def test_tail_tells_every_move_as_it_happens(fleet: Fleet) -> None:
    process = await following(fleet)
    await fleet.relay()
    await fleet.worker()
    good = fleet.enqueue(flaky.call(1))

    def told() -> list[dict[str, Any]] | None:
        found = [move for move in moves(process) if move["id"] == str(good.id)]
        return found if found and found[-1]["state"] == "succeeded" else None

    await fleet.reaches(good, "succeeded")
    found = await until(told)
    assert [move["state"] for move in found] == ["queued", "retrying", "queued", "succeeded"]
    assert (found[-1]["type"], found[-1]["queue"], found[-1]["tries"]) == ("flaky", "default", 2)
    assert found[-1]["seconds"] >= 0 and found[1]["due_at"]
    calm = fleet.rows("SELECT query_start AS at FROM pg_stat_activity WHERE application_name = 'dispatcher tail'")
    await fleet.beats(2)
    assert calm == fleet.rows(
        "SELECT query_start AS at FROM pg_stat_activity WHERE application_name = 'dispatcher tail'"
    )
    process.send(signal.SIGINT)
    assert await process.ended() == 130
    assert "Traceback" not in process.output


async def test_tail_filters_and_leaves_after_its_limit(fleet: Fleet) -> None:
    await fleet.relay()
    await fleet.worker(queues=("default", "mail"))
    process = await following(fleet, "--state", "failed,cancelled", "-q", "mail", "-t", "raising", "--limit", "1")
    other = [note.call(1), raising.call("not this"), note.options(queue="mail").call(2)]
    for call in other:
        fleet.enqueue(call)
    wanted = fleet.enqueue(raising.options(queue="mail").call("boom \x1b[2J"))
    assert await process.ended() == 0, process.output
    (move,) = moves(process)
    assert (move["id"], move["state"], move["reason"]) == (str(wanted.id), "failed", "exhausted")
    assert "ValueError: boom" in move["error"]


async def test_tail_and_top_refuse_bad_input(fleet: Fleet, cli: Any) -> None:
    for args, code, says in (
        (["tasks", "tail", "--state", "runing"], 2, "no state 'runing'; did you mean 'running'?"),
        (["tasks", "tail", "--state", "running"], 2, "state 'running' is not announced"),
        (["tasks", "tail", "--database-url", "postgresql://127.0.0.1:1/x"], 5, "PostgreSQL cannot be reached"),
        (["top", "--once", "--nats-url", "nats://127.0.0.1:1"], 5, "no NATS server answers"),
    ):
        ran = await asyncio.to_thread(cli, *args)
        assert (ran.code, ran.out, ran.err.count("\n")) == (code, "", 1), ran.err
        assert says in ran.err


async def test_top_shows_queues_workers_and_the_relay(fleet: Fleet, cli: Any) -> None:
    empty = (await asyncio.to_thread(cli, "top", "--once", "--json")).json
    assert (empty["queues"], empty["workers"], empty["relay"]) == ([], [], None)
    relay = await fleet.relay()
    await fleet.worker(name="w1", slots=3)
    done = fleet.enqueue(note.call(1))
    fleet.enqueue(note.options(queue="mail").call(1))
    await fleet.reaches(done, "succeeded")
    answers = "top", "--once", "--json"
    frame = (await answered(cli, *answers, when=lambda ran: bool(ran.json["workers"] and ran.json["relay"]))).json
    mail = next(queue for queue in frame["queues"] if queue["name"] == "mail")
    assert (mail["depth"], mail["counts"], bool(mail["oldest_queued_at"])) == (1, {"queued": 1}, True)
    assert [worker["slots"] for worker in frame["workers"]] == [3]
    assert frame["relay"] == relay.name
    screen = (await answered(cli, "top", "--once", when=lambda ran: "w1" in ran.out and relay.name in ran.out)).out
    assert "\x1b" not in screen and "mail" in screen
    process = fleet.process("top", "--json", "--interval", "0.5")
    await until(lambda: len(moves(process)) >= 1)
    fleet.enqueue_many([note.call(n) for n in range(50)])
    await until(lambda: any((frame["ended_per_second"] or 0) > 0 for frame in moves(process)))
    process.send(signal.SIGINT)
    assert await process.ended() == 130


def test_top_draws_in_place_on_a_terminal(settings: Settings) -> None:
    """Through a real terminal: the screen is redrawn, nothing scrolls."""
    terminal, inside = pty.openpty()
    process = subprocess.Popen(
        command_line("top", "--interval", "0.5"), env=environment(settings), stdin=inside, stdout=inside, stderr=inside
    )
    os.close(inside)
    seen = b""
    try:
        while seen.count(b"\x1b[H") < 2:
            seen += os.read(terminal, 65536)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(PATIENCE)
        os.close(terminal)
    assert b"no worker answers" in seen and b"\x1b[J" in seen


async def test_reload_starts_the_worker_again_with_the_new_code(fleet: Fleet, cli: Any, tmp_path: Path) -> None:
    folder = tmp_path / "shop"
    folder.mkdir()
    code = 'from dispatcher import Dispatcher\napp = Dispatcher("shop")\n@app.task(name="answer")\n'
    (folder / "shop.py").write_text(code + "async def answer() -> str:\n    return 'old'\n")
    await fleet.relay()
    log = tmp_path / "reload.log"
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: ASYNC220 - returns at once
            command_line("worker", "shop:app", "--reload"), cwd=folder, stdout=output, stderr=subprocess.STDOUT,
            env=environment(fleet.settings, {"PYTHONPATH": os.getcwd()}), stdin=subprocess.DEVNULL,
        )  # fmt: skip

    async def answers(what: str) -> None:
        ran = await asyncio.to_thread(cli, "enqueue", "answer", "--wait", "--timeout", PATIENCE, "--json")
        assert ran.code == 0, log.read_text()
        assert ran.json["task"]["result"] == what

    try:
        await answers("old")
        (folder / "shop.py").write_text(code + "async def answer() -> str:\n    return 'new'\n")
        await until(lambda: "shop.py changed; starting the worker again" in log.read_text())
        await answers("new")
        (folder / "shop.py").write_text("this is no python")
        await until(lambda: "the worker ended with code 1; waiting for a change" in log.read_text())
        (folder / "shop.py").write_text(code + "async def answer() -> str:\n    return 'mended'\n")
        await answers("mended")
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait, PATIENCE) == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
