"""The README's quick start, typed as it is written, outside the repository, in a clean environment with the wheel.

Only ``pip install`` is done in another way: the environment has the wheel of this checkout and, by path, the libraries
that are installed already, so that the test needs no network and cannot meet another version on a package index.
Ids, ports, passwords, ages and folders differ from run to run; apart from those the output shown must be the real one.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from tests.acceptance.test_wheel import environment, wheel
from tests.fixtures.patience import until_blocking

__all__ = ["environment", "wheel"]

README = (Path(__file__).resolve().parents[2] / "README.md").read_text()
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INSTALL = 'pip install "jetstream-dispatcher[embedded]"'
SERVING = "dispatcher dev tasks:app"
SECONDS = 60.0


def section(title: str) -> str:
    return README.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


def blocks(title: str) -> list[tuple[str, str]]:
    return BLOCK.findall(section(title))


def commands(block: str) -> list[str]:
    return [line.removeprefix("$ ") for line in block.splitlines() if line.startswith("$ ")]


def shown(block: str) -> list[str]:
    """The lines of output that the README shows."""
    return [plain(line) for line in block.splitlines() if line.strip() and not line.startswith("$ ")]


def plain(line: str) -> str:
    """A line without what differs from run to run."""
    for pattern, word in (
        (r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "ID"),
        (r"://\S+@", "://LOGIN@"),
        (r"127\.0\.0\.1:\d+", "ADDRESS"),
        (r"/\S*/\.dispatcher", "FOLDER"),
        (r"\b\d+\.\d+(\.\d+)?\b", "VERSION"),
        (r"\b\d+s\b", "AGE"),
        (r"\s+", " "),
    ):
        line = re.sub(pattern, word, line)
    return line.strip()


def assert_shown(block: str, said: str) -> None:
    lines = [plain(line) for line in said.splitlines()]
    missing = [line for line in shown(block) if line not in lines]
    assert not missing, f"not said: {missing}\nsaid:\n{said}"


def clean_environment(root: Path) -> dict[str, str]:
    ours = ("PYTHON", "DISPATCHER", "PYTEST", "VIRTUAL_ENV", "DATABASE_URL", "NATS_URL")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    # nats-server lies in the bin folder of the environment that the libraries were borrowed from
    kept["PATH"] = os.pathsep.join([str(root / "bin"), sysconfig.get_path("scripts"), os.environ["PATH"]])
    return kept


@contextmanager
def serving(folder: Path, env: dict[str, str]) -> Iterator[Path]:
    """``dispatcher dev`` in its own terminal; gives its output when it is ready, and stops it as Ctrl-C does."""
    output = folder.parent / "dev.log"
    with output.open("wb") as log:
        process = subprocess.Popen(
            ["bash", "-c", f"exec {SERVING}"], cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        until_blocking(lambda: "Ctrl-C lets" in output.read_text() or process.poll() is not None, SECONDS, str(output))
        assert process.poll() is None, output.read_text()
        yield output
        process.send_signal(signal.SIGINT)
        assert process.wait(SECONDS) == 0, output.read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


@pytest.mark.timeout(180)
def test_the_quick_start_works_as_written(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    env = clean_environment(request.getfixturevalue("environment"))
    folder = tmp_path / "shop"
    folder.mkdir()
    parts = blocks("Quick start")
    consoles = [block for kind, block in parts if kind == "console"]
    for code in (block for kind, block in parts if kind == "python"):
        (folder / code.splitlines()[0].removeprefix("# ")).write_text(code)
    assert [commands(block) for block in consoles[:2]] == [[INSTALL], [SERVING]]

    with serving(folder, env) as output:
        script = "\n".join(["set -e", *(line for block in consoles[2:] for line in commands(block))])
        typed = subprocess.run(
            ["bash", "-c", script], cwd=folder, env=env, capture_output=True, text=True, timeout=SECONDS, check=False
        )
        assert typed.returncode == 0, f"{script}\n{typed.stdout}\n{typed.stderr}"
        assert_shown("\n".join(consoles[2:]), typed.stdout)
        assert typed.stdout.count("tasks.greet") == 2, "the task that was rolled back never existed"
    assert_shown(consoles[1], output.read_text())


async def test_the_web_service_works_as_written(database_url: str) -> None:
    (code,) = [block for kind, block in blocks("In a web service") if kind == "python"]
    (tasks,) = [block for _, block in blocks("Quick start") if block.startswith("# tasks.py")]
    module: dict[str, Any] = {"__name__": "tasks"}
    exec(tasks, module)
    found: dict[str, Any] = {"greet": module["greet"]}
    exec(code.replace("from tasks import greet\n", ""), found)
    sign_up = found["sign_up"]
    engine = create_async_engine(database_url.replace("postgresql://", "postgresql+psycopg://"))
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE guests (name text)"))
    async with AsyncSession(engine) as session:
        first = await sign_up(session, "Ada")
        assert await sign_up(session, "Ada") == first, "the key returns the first task"
    async with engine.connect() as connection:
        assert (await connection.execute(text("SELECT count(*) FROM dispatcher.tasks"))).scalar_one() == 1
    await engine.dispose()
