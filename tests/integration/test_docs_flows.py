"""Every example of docs/flows.md runs, in order, in one namespace."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from dispatcher import Dispatcher
from dispatcher.errors import TaskFailed
from tests.fixtures.fleet import Fleet, until
from tests.fixtures.patience import PATIENCE

PAGE = Path(__file__).resolve().parents[2] / "docs" / "flows.md"


async def test_the_examples_of_the_page_run(fleet: Fleet) -> None:
    url = fleet.settings.database_url or ""
    engine = create_async_engine("postgresql+psycopg" + url[url.index("://") :])
    fleet.connection.execute("CREATE TABLE accounts (balance int); INSERT INTO accounts VALUES (10)")
    names: dict[str, Any] = {"engine": engine, "text": text, "connection": fleet.connection}
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 10
    await fleet.relay()
    app: Dispatcher | None = None
    try:
        for block in blocks:
            code = compile(block, str(PAGE), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            if "@app.task" in block and app is not None:
                # types come first, then a worker that knows them, then what uses them
                head, _, tail = block.partition("\n\n\nwith ")
                exec(compile(head, str(PAGE), "exec"), names)
                code = compile("with " + tail, str(PAGE), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            worker = None if app is None else await fleet.worker(app)
            waits = eval(code, names)
            if inspect.isawaitable(waits):
                await waits
            app = names["app"]
            app.configure(fleet.settings)
            if worker is not None:
                await until(lambda: fleet.count("tasks", "state < 6") == 0)
                await fleet.stop(worker)
        with pytest.raises(TaskFailed):
            await names["task"].wait(PATIENCE)
        assert fleet.rows("SELECT balance FROM accounts")[0]["balance"] == 10 + 5 - 1
    finally:
        if app is not None:
            await app.close()
        await engine.dispose()
