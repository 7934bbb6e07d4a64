from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from dispatcher import Dispatcher, OptionError
from dispatcher.lifecycle import ResourceNotOpen


def made(said: list[str]) -> Dispatcher:
    app = Dispatcher("shop")

    @app.resource
    async def pool() -> AsyncIterator[str]:
        said.append("open pool")
        yield "the pool"
        said.append("close pool")

    @app.resource
    def model() -> Iterator[str]:
        said.append(f"open model with {pool.get()}")
        yield "the model"
        said.append(f"close model with {pool.get()}")

    @app.on_worker_start
    async def start() -> None:
        said.append(f"start with {model.get()}")

    @app.on_worker_stop
    def stop() -> None:
        said.append(f"stop with {model.get()}")

    return app


async def test_resources_open_in_order_and_close_backwards_around_the_hooks() -> None:
    said: list[str] = []
    app = made(said)
    async with app.worker_life():
        async with app.worker_life():  # two workers in one process share the resources
            said.append("work")
    assert said == [
        "open pool", "open model with the pool", "start with the model", "start with the model", "work",
        "stop with the model", "stop with the model", "close model with the pool", "close pool",
    ]  # fmt: skip
    with pytest.raises(ResourceNotOpen, match=r"in a test say with pool\.using"):
        app.resources["pool"].get()
    async with app.worker_life():  # and once more
        assert app.resources["pool"].get() == "the pool"


async def test_a_resource_that_does_not_open_stops_the_start_and_closes_the_others() -> None:
    said: list[str] = []
    app = made(said)

    @app.resource
    async def broken() -> AsyncIterator[None]:
        if said:
            raise OSError("no such host")
        yield

    with pytest.raises(OSError, match="no such host"):
        async with app.worker_life():
            said.append("work")
    assert said[0] == "open pool" and said[-1] == "close pool" and "work" not in said


async def test_what_goes_wrong_at_the_stop_is_logged_and_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    said: list[str] = []
    app = made(said)

    @app.on_worker_stop
    async def wrong() -> None:
        raise ValueError("not now")

    async with app.worker_life():
        pass
    assert said[-1] == "close pool"
    assert "stop hook 'wrong' failed" in caplog.text


def test_in_a_unit_test_something_else_stands_in() -> None:
    app = made([])
    with app.resources["pool"].using("a fake"):
        assert app.resources["pool"].get() == "a fake"
    with pytest.raises(ResourceNotOpen):
        app.resources["pool"].get()


def test_what_cannot_be_a_resource_or_a_hook_is_refused() -> None:
    app = made([])

    def plain() -> None: ...
    def pool() -> Iterator[int]:
        yield 1

    def asks(host: str) -> Iterator[int]:
        yield 1

    def hook(host: str) -> None: ...

    wrong: list[tuple[Any, Any, str]] = [
        (app.resource, plain, "needs a generator function"),
        (app.resource, pool, "there is a resource 'pool' already"),
        (app.resource, asks, "must have no parameters"),
        (app.on_worker_start, hook, "must have no parameters"),
        (app.on_worker_stop, pool, "must be a plain or async function"),
    ]
    for register, function, message in wrong:
        with pytest.raises(OptionError, match=message):
            register(function)
