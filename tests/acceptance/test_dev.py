"""``dispatcher dev``: the quick start as a reader types it, other commands in the folder, restarts, orderly stop."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Empty, Queue
from typing import Any

import pytest

from dispatcher.dev.beacon import Beacon, found
from state.errors import DispatcherError
from tests.fixtures.patience import until_blocking

REPOSITORY = Path(__file__).resolve().parents[2]
TASKS = """
import time
from dispatcher import Dispatcher

app = Dispatcher("demo")


@app.task
async def greet(name: str) -> str:
    return f"Hello {name}"


@app.task(queue="slow")
def nap(seconds: float) -> str:
    open("napping", "w").close()
    time.sleep(seconds)
    return "rested"
"""
SERVICE = """
import os
import psycopg
from tasks import greet

with psycopg.connect(os.environ["DISPATCHER_DATABASE_URL"]) as connection:
    task = greet.enqueue(connection, "Bob")
print(task.wait_blocking(timeout=30))
"""


def environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith(("DISPATCHER_", "DATABASE_URL", "NATS_URL", "PG"))}


def dispatcher(folder: Path, *args: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dispatcher", *args],
        cwd=folder, env={**environment(), **more}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


class Dev:
    """A running ``dispatcher dev``; everything it says can be waited for."""

    def __init__(self, folder: Path, *args: str) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-m", "dispatcher", "dev", *args, "--json"],
            cwd=folder, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        self._lines: Queue[str] = Queue()
        self.said: list[str] = []
        threading.Thread(target=self._read, daemon=True).start()
        self.about: dict[str, Any] = json.loads(self.wait_for(lambda line: line.startswith('{"ready"')))

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)

    def wait_for(self, wanted: Callable[[str], bool]) -> str:
        while True:
            try:
                line = self._lines.get(timeout=40)
            except Empty:
                raise AssertionError(f"not said: {''.join(self.said)}") from None
            self.said.append(line)
            if wanted(line):
                return line

    def workers(self) -> list[dict[str, Any]]:
        return json.loads(dispatcher(self.folder, "workers", "list", "--json").stdout)["workers"]  # type: ignore[no-any-return]

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        code = self.process.wait(40)
        assert self.process.stdout is not None
        return code


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tasks.py").write_text(TASKS)
    (tmp_path / "service.py").write_text(SERVICE)
    return tmp_path


@pytest.fixture
def dev(folder: Path) -> Iterator[Dev]:
    running = Dev(folder, "tasks:app")
    try:
        yield running
    finally:
        running.stop()
        if running.process.stdout is not None:
            running.process.stdout.close()


def test_quick_start(dev: Dev) -> None:
    assert dev.about["queues"] == ["default", "slow"]
    said = dispatcher(dev.folder, "enqueue", "tasks.greet", "name=Ada", "--wait")
    assert said.returncode == 0, said.stderr
    assert "succeeded" in said.stdout
    assert '"Hello Ada"' in said.stdout

    line = f'eval "$({sys.executable} -m dispatcher dev --env)" && exec {sys.executable} service.py'
    service = subprocess.run(
        ["/bin/sh", "-c", line],
        cwd=dev.folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert service.stdout.strip() == "Hello Bob", service.stderr

    shown = json.loads(dispatcher(dev.folder, "config", "show", "--json").stdout)["settings"]
    assert shown["database_url"]["origin"] == "dispatcher dev"
    assert dispatcher(dev.folder, "tasks", "stats").returncode == 0

    again = dispatcher(dev.folder, "dev", "tasks:app")
    assert again.returncode == 1
    assert "runs already" in again.stderr

    dev.process.send_signal(signal.SIGINT)
    assert dev.process.wait(40) == 0
    after = dispatcher(dev.folder, "tasks", "list")
    assert after.returncode == 2
    assert "no database is configured" in after.stderr


def test_killed_worker_is_started_again_and_the_running_task_finishes_at_the_first_ctrl_c(dev: Dev) -> None:
    (worker,) = until_blocking(dev.workers)
    os.kill(worker["pid"], signal.SIGKILL)
    dev.wait_for(lambda line: "worker ended with SIGKILL; starting it again" in line)
    assert dispatcher(dev.folder, "enqueue", "tasks.greet", "name=Eve", "--wait").returncode == 0

    # the worker's own start, not ours: it leaves a mark when the handler runs
    napping = dispatcher(dev.folder, "enqueue", "tasks.nap", "seconds=1.5", "--queue", "slow")
    task = napping.stdout.split()[0]
    until_blocking((dev.folder / "napping").exists)
    assert dev.stop() == 0
    again = Dev(dev.folder, "tasks:app")
    try:
        shown = json.loads(dispatcher(dev.folder, "tasks", "show", task, "--json").stdout)
        state = shown.get("state") or shown["task"]["state"]
        assert state == "succeeded", shown
    finally:
        again.stop()
        assert again.process.stdout is not None
        again.process.stdout.close()


def test_example_shop_runs_on_dev(tmp_path: Path) -> None:
    shutil.copy(REPOSITORY / "examples/shop.py", tmp_path / "shop.py")
    running = Dev(tmp_path, "shop:app")
    try:
        assert running.about["queues"] == ["billing", "default", "mail"]
        variables = json.loads(dispatcher(tmp_path, "dev", "--env", "--json").stdout)
        done = subprocess.run(
            [sys.executable, "shop.py"],
            cwd=tmp_path, env=environment() | variables, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        lines = done.stdout.splitlines()
        assert lines[0] == "charged 4200 cents for order 1"
        assert lines[1].startswith("rolled back (the card was declined): task ")
        assert lines[2].startswith("charged 700 cents for order ")
        assert lines[3] == "shop.charge: succeeded after 1 try"
        counts = json.loads(dispatcher(tmp_path, "tasks", "stats", "--json").stdout)
        assert "failed" not in json.dumps(counts)
    finally:
        running.stop()
        assert running.process.stdout is not None
        running.process.stdout.close()


def test_without_app_it_says_how_to_write_it(tmp_path: Path) -> None:
    said = dispatcher(tmp_path, "dev")
    assert said.returncode == 2
    assert said.stderr.strip() == (
        "error: say which app to run: dispatcher dev MODULE:APP, for example dispatcher dev tasks:app"
    )


def test_one_server_configured_and_one_not_is_refused(folder: Path) -> None:
    said = dispatcher(folder, "dev", "tasks:app", DISPATCHER_NATS_URL="nats://127.0.0.1:1")
    assert said.returncode == 2
    assert "only NATS is configured; set DISPATCHER_DATABASE_URL too" in said.stderr


def test_env_without_a_running_system_is_a_clear_error(tmp_path: Path) -> None:
    said = dispatcher(tmp_path, "dev", "--env")
    assert said.returncode == 3
    assert "no dispatcher dev runs in" in said.stderr


def test_beacon_is_believed_only_while_it_is_held_and_private(tmp_path: Path) -> None:
    beacon = Beacon(tmp_path)
    assert found(tmp_path) is None, "nothing written yet"
    beacon.light({"settings": {}})
    assert found(tmp_path) == {"settings": {}}
    assert beacon.path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(DispatcherError, match="runs already"):
        Beacon(tmp_path)
    beacon.path.chmod(0o644)
    assert found(tmp_path) is None, "others could have read it"
    beacon.path.chmod(0o600)
    beacon.close()
    assert found(tmp_path) is None
