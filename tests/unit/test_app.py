from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Coroutine, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import dispatcher
from dispatcher import Call, Dispatcher, OptionError, Retry, UnknownTask

ROOT = Path(__file__).resolve().parents[2]


def test_a_plain_call_runs_the_function_here_and_now() -> None:
    app = Dispatcher("shop")

    @app.task
    def double(x: int) -> int:
        """Twice."""
        return 2 * x

    assert double(4) == 8
    assert double.__doc__ == "Twice."
    assert double.__name__ == "double"
    assert not double.is_async


async def test_a_plain_call_of_an_async_function_gives_its_coroutine() -> None:
    app = Dispatcher("shop")

    @app.task(queue="billing")
    async def double(x: int) -> int:
        return 2 * x

    result: Coroutine[Any, Any, int] = double(4)
    assert await result == 8
    assert double.is_async


def test_names_come_from_the_module_and_can_be_given() -> None:
    app = Dispatcher("shop")

    def plain() -> None: ...

    assert app.task(plain).name == f"{__name__}.plain"
    named = app.task(name="mail.send", aliases=["mail.deliver"])(plain)
    assert app.task_types == {f"{__name__}.plain": app.task_type(f"{__name__}.plain"), "mail.send": named}
    assert app.task_type("mail.deliver") is named
    with pytest.raises(UnknownTask, match=r"no task type 'mail\.sned'; did you mean 'mail\.send'\?") as caught:
        app.task_type("mail.sned")
    assert caught.value.name == "mail.sned"
    assert "mail.send" in caught.value.known


@pytest.mark.parametrize("options", [{"name": "a"}, {"name": "old"}, {"name": "x", "aliases": ["a"]}])
def test_a_name_is_given_once(options: Any) -> None:
    app = Dispatcher("shop")

    @app.task(name="a", aliases=["old"])
    def first() -> None: ...

    with pytest.raises(OptionError, match="is taken by another task type of 'shop': give this one name="):
        app.task(**options)(first.function)
    assert list(app.task_types) == ["a"]


def test_bad_registrations_are_refused() -> None:
    app = Dispatcher("shop")
    with pytest.raises(OptionError, match="no option 'retries'; did you mean 'retry'"):
        app.task(retries=3)  # type: ignore[call-overload]
    with pytest.raises(OptionError, match="needs a plain or async function"):
        app.task(5)  # type: ignore[call-overload]
    with pytest.raises(OptionError, match="needs a plain or async function"):
        app.task(int)
    with pytest.raises(OptionError, match="needs a plain or async function"):
        app.task(partial(print, 1))

    def generator() -> Iterator[int]:
        yield 1

    with pytest.raises(OptionError, match="needs a plain or async function"):
        app.task(generator)
    with pytest.raises(OptionError, match="needs a plain or async function"):
        app.task(app.task(lambda: None))
    with pytest.raises(OptionError, match="needs a name"):
        Dispatcher("")


def test_what_the_worker_reads() -> None:
    app = Dispatcher("shop")

    @app.task(queue="billing", lane="high", retry=Retry(max_attempts=3), timeout=30)
    def f(x: int) -> str:
        return str(x)

    assert (f.queue, f.lane, f.retry.max_attempts, f.max_attempts, f.timeout) == ("billing", "high", 3, 3, 30.0)
    assert f.decode(b'{"x":1}') == ((), {"x": 1})
    assert f.encode_result("y") == b'"y"'
    assert f.secret_values((1,), {}) == []

    @app.task
    def g() -> None: ...

    assert (g.queue, g.lane, g.max_attempts, g.timeout) == ("default", "default", 5, None)


def test_types_may_be_defined_after_the_task() -> None:
    app = Dispatcher("shop")

    @app.task
    def f(later: Later) -> None: ...

    assert f.call(Later(x=1)).args == b'{"later":{"x":1}}'
    app.check()

    @app.task
    def broken(missing: Missing) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(OptionError, match="broken' cannot be stored as JSON: name 'Missing' is not defined"):
        app.check()


def test_statement_for_other_drivers() -> None:
    app = Dispatcher("shop", schema="jobs")

    @app.task(name="f")
    def f(x: int) -> None: ...

    call: Call[None] = f.options(key="k", delay=1).call(1)
    sql, params = call.statement()
    assert "FROM jobs.create_task(" in sql
    assert "$14" in sql
    assert len(params) == 14
    assert params[4] == b'{"x":1}'
    assert call.statement()[1][0] != params[0]
    sql, params = call.statement(style="format")
    assert sql.count("%s") == len(params) == 14
    assert all(isinstance(p, (str, bytes, int, float, type(None))) for p in params)
    with pytest.raises(OptionError, match="style must be"):
        call.statement(style="pyformat")  # type: ignore[arg-type]


def test_handles_take_ids_as_text_too() -> None:
    app = Dispatcher("shop")

    @app.task
    def f() -> None: ...

    id = "01a20297-6d34-759c-868e-6eb6c00352d6"
    assert f.handle(id) == app.handle(id)
    assert str(f.handle(id).id) == id
    with pytest.raises(OptionError, match="'nonsense' is not a task id"):
        app.handle("nonsense")


def test_what_is_no_session_is_refused_with_advice() -> None:
    app = Dispatcher("shop")

    @app.task
    def f(x: int) -> None: ...

    for wrong in (None, 5, object(), "postgresql://"):
        with pytest.raises(OptionError, match="expected a session or connection as the first argument"):
            f.enqueue(wrong, 1)  # type: ignore[call-overload]
    with pytest.raises(OptionError, match="takes calls, as made by"):
        app.enqueue_many(None, [5])  # type: ignore[call-overload]


def test_every_exported_name_is_listed_and_documented() -> None:
    assert sorted(dispatcher.__all__) == dispatcher.__all__
    for name in dispatcher.__all__:
        thing = getattr(dispatcher, name)
        if isinstance(thing, type) or (callable(thing) and name not in ("SyncTx", "AsyncTx")):
            assert thing.__doc__, name


def _python(code: str, cwd: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_is_light_and_enqueueing_never_loads_the_broker(tmp_path: Path) -> None:
    heavy = ["nats", "sqlalchemy", "psycopg", "alembic", "fastapi", "pydantic", "typer", "asyncio", "prometheus_client"]
    code = f"""
import json, sys
import dispatcher
loaded = [[name for name in {heavy} if name in sys.modules]]
app = dispatcher.Dispatcher("shop", schema="dispatcher")
@app.task
def f(x: int) -> None: ...
loaded.append([name for name in {heavy} if name in sys.modules])
f.call(1)
try:
    f.enqueue(None, 1)
except dispatcher.OptionError:
    pass
loaded.append([name for name in {heavy} if name in sys.modules])
print(json.dumps(loaded))
"""
    imported, registered, called = json.loads(_python(code, tmp_path))
    assert imported == registered == []
    assert set(called) <= {"pydantic", "asyncio"}


def test_a_task_in_a_script_has_the_name_a_worker_would_import(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(
        "from dispatcher import Dispatcher\napp = Dispatcher('shop')\n@app.task\ndef f() -> None: ...\nprint(f.name)\n"
    )
    for arguments in (["shop.py"], ["-m", "shop"]):
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        assert done.stdout == "shop.f\n", done.stderr


from pydantic import BaseModel  # noqa: E402 - below its use on purpose


class Later(BaseModel):
    x: int
