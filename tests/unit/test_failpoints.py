"""Failpoints act at their moment, and nothing but a test can turn them on."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dispatcher.errors import ConfigurationError
from dispatcher.failpoints import TESTING, VARIABLE, armed, requested, wrap
from dispatcher.relay import failpoints as of_relay
from dispatcher.settings import Settings
from workers import failpoints as of_worker

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("DISPATCHER_")}
    return subprocess.run(
        [sys.executable, *arguments], env=clean | variables, cwd=ROOT, capture_output=True, text=True, check=False,
        timeout=60,
    )  # fmt: skip


@pytest.mark.parametrize(
    "command", [("relay",), ("worker", "dispatcher.drill.tasks:app")], ids=lambda command: str(command[0])
)
@pytest.mark.parametrize("testing", ["", "true"])
def test_production_processes_refuse_failpoints(command: tuple[str, ...], testing: str) -> None:
    servers = {
        "DISPATCHER_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/x",
        "DISPATCHER_NATS_URL": "nats://127.0.0.1:1",
    }
    done = run("-m", "dispatcher", *command, **servers, **{VARIABLE: "worker.after_claim=kill", TESTING: testing})
    assert done.returncode == 2
    assert VARIABLE in done.stderr
    assert "unset it" in done.stderr


def test_no_setting_turns_them_on() -> None:
    assert not [name for name in Settings.model_fields if "failpoint" in name or "testing" in name]
    assert requested({}) == {}
    assert requested({TESTING: "1"}) == {}
    with pytest.raises(ConfigurationError, match="tests only"):
        requested({VARIABLE: "worker.after_claim=kill"})


def test_unset_they_cost_nothing() -> None:
    """No method is wrapped and no module of theirs is imported: there is nothing to be called."""
    code = (
        "import sys, workers.cli, dispatcher.cli.relay\n"
        "from dispatcher.failpoints import arm\n"
        "from workers.claimer import Claimer\n"
        "before = Claimer._claim\n"
        "arm('workers.failpoints'); arm('dispatcher.relay.failpoints')\n"
        "print(Claimer._claim is before, [name for name in sys.modules if name.endswith('.failpoints')])"
    )
    assert run("-c", code).stdout.strip() == "True ['dispatcher.failpoints']"


def test_the_product_knows_them_only_at_its_start() -> None:
    found = set()
    for package in ("dispatcher", "workers", "state"):
        for path in (ROOT / package).rglob("*.py"):
            if re.search(r"^from (dispatcher|workers)\S* import .*\b(arm|armed|failpoints)\b", path.read_text(), re.M):
                found.add(str(path.relative_to(ROOT)))
    assert found == {"workers/cli.py", "dispatcher/cli/relay.py", "dispatcher/drill/tasks.py"}


@pytest.mark.parametrize("text", ["worker.after_claim", "a=explode", "a=kill@0", "a=kill@x", "a=kill,b"])
def test_a_mistake_is_named(text: str) -> None:
    with pytest.raises(ConfigurationError, match=VARIABLE):
        requested({VARIABLE: text, TESTING: "1"})


class Thing:
    def plain(self) -> int:
        return 1

    async def waiting(self) -> int:
        return 2


async def test_it_acts_once_at_its_count(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: sent.append((pid, number)))
    monkeypatch.setenv(VARIABLE, "a=kill@2, b=stop")
    monkeypatch.setenv(TESTING, "1")
    points = requested(os.environ)
    wrap(Thing, "plain", before=points["a"])
    wrap(Thing, "waiting", after=points["b"])
    thing = Thing()
    assert [thing.plain() for _ in range(4)] == [1] * 4
    assert sent == [(os.getpid(), signal.SIGKILL)]
    assert await thing.waiting() == 2
    assert sent[1:] == [(os.getpid(), signal.SIGSTOP)]
    assert armed("a") is not None
    assert armed("c") is None


def test_every_name_is_wrapped_somewhere() -> None:
    """Each one is reached by the drill ``kill-points``; here only that none was forgotten."""
    for module in (of_worker, of_relay):
        assert module.__file__ is not None
        source = Path(module.__file__).read_text()
        assert all(source.count(f'"{name}"') == 2 for name in module.NAMES)
