"""Whose event loop a process takes."""

from __future__ import annotations

import asyncio

import pytest

from dispatcher import loop


async def whose() -> str:
    return type(asyncio.get_running_loop()).__module__.partition(".")[0]


def test_uvloop_is_taken_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("uvloop")
    assert loop.run(whose()) == "uvloop"
    monkeypatch.setattr(loop, "has_uvloop", lambda: False)
    assert loop.run(whose()) == "asyncio"


def test_the_result_and_the_error_come_through() -> None:
    async def fails() -> None:
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        loop.run(fails())
