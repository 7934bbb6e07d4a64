"""Log lines of a worker: each says which attempt it is about, and none tells a secret."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
from pydantic import SecretStr

from dispatcher.logs import line_handler
from tests.fixtures import apps
from tests.fixtures.fleet import Fleet, until


@pytest.fixture(params=["json", "pretty"])
def lines(request: pytest.FixtureRequest) -> Iterator[tuple[str, io.StringIO]]:
    """The format, and everything logged in this process in it."""
    stream = io.StringIO()
    handler = line_handler(stream, request.param, worker="w-1")
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield request.param, stream
    finally:
        root.removeHandler(handler)
        root.setLevel(level)


async def test_lines_of_a_handler_and_about_an_attempt_name_the_attempt(
    fleet: Fleet, lines: tuple[str, io.StringIO]
) -> None:
    format, stream = lines
    await fleet.relay()
    await fleet.worker()
    chatty, failing = fleet.enqueue(apps.chatty.call("hello")), fleet.enqueue(apps.raising.call("oh no"))
    await until(lambda: fleet.finished() == 2)
    await until(lambda: "oh no" in stream.getvalue())
    if format == "pretty":
        for text in ("loop hello", "thread hello"):
            assert f" info    shop: [chatty {chatty.id} attempt 1] {text}\n" in stream.getvalue()
        assert f"[raising {failing.id} attempt 1] failed: ValueError: oh no\n" in stream.getvalue()
        return
    found = {line["message"]: line for line in map(json.loads, stream.getvalue().splitlines())}
    for message, task, type, level in (
        ("loop hello", chatty, "chatty", "info"),
        ("thread hello", chatty, "chatty", "info"),
        ("failed: ValueError: oh no", failing, "raising", "error"),
    ):
        line = found[message]
        assert (line["task_id"], line["type"], line["level"]) == (str(task.id), type, level)
        assert (line["attempt"], line["queue"], line["worker"]) == (1, "default", "w-1")
    assert "task_id" not in found["this relay leads"]


@pytest.mark.parametrize("how", ["error", "key", "cancel", "cause", "retry"])
async def test_a_line_about_a_failed_attempt_tells_no_secret(
    fleet: Fleet, lines: tuple[str, io.StringIO], how: str
) -> None:
    await fleet.relay()
    await fleet.worker()
    task = fleet.enqueue(apps.login.options(max_attempts=2).call("ada", SecretStr("correct horse battery"), how))
    await fleet.reaches(task, "failed", "cancelled")
    await until(lambda: str(task.id) in lines[1].getvalue() or how == "cancel")
    assert "correct horse" not in lines[1].getvalue()
