"""The demonstration proves what it claims, and its proof can fail."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest

from dispatcher.demo.place import Place, reopened
from dispatcher.demo.proof import Proof, prove
from dispatcher.demo.work import KINDS, do, kind_of, make_files
from dispatcher.dev.ledger import Mark, Writer, read

TASKS = 600
# one demonstration for the whole file, also when tests run in parallel
pytestmark = pytest.mark.xdist_group("demo")


def demo(*args: str | Path) -> tuple[int, dict[str, Any], str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith("DISPATCHER_") or k.startswith("DISPATCHER_TEST_")}
    done = subprocess.run(
        [sys.executable, "-m", "dispatcher", "demo", *map(str, args), "--json"],
        env=env, capture_output=True, text=True, timeout=110, check=False,
    )  # fmt: skip
    lines = done.stdout.strip().splitlines()
    return done.returncode, json.loads(lines[-1]) if lines else {}, done.stderr


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A demonstration that was run once, with everything kept."""
    folder = tmp_path_factory.mktemp("demo") / "kept"
    code, proof, said = demo("--tasks", str(TASKS), "--keep", folder, "--seed", "7")
    assert code == 0, (proof, said)
    assert proof["ok"] is True
    assert "kill -9 worker-1" in said
    assert "kill -9 relay-1" in said
    return folder


@pytest.fixture(scope="module")
def open_place(kept: Path) -> Iterator[Place]:
    """The kept demonstration with its servers up; verified by the command first, while nobody else holds it."""
    code, proof, said = demo("verify", kept)
    assert code == 0, (proof, said)
    (kept / "verified.json").write_text(json.dumps(proof))
    with reopened(kept) as place:
        yield place


def test_proof_holds_again_from_what_was_kept(open_place: Place) -> None:
    proof = json.loads((open_place.root / "verified.json").read_text())
    assert proof["ok"] is True
    assert proof["created"] == proof["succeeded"] == proof["effects"] == TASKS
    assert proof["lost"] == proof["rolled_back_ran"] == proof["effects_twice"] == proof["audit_violations"] == 0
    assert proof["kills_done"] == 2
    assert proof["retried"] > 0
    assert proof["rolled_back"] > 0
    assert proof["starts"] > TASKS
    assert 0 < proof["p50_ms"] <= proof["p99_ms"]


def test_kept_folder_is_not_overwritten(kept: Path) -> None:
    code, _, said = demo("--keep", kept)
    assert code == 2
    assert said.strip().splitlines()[-1].endswith(f"look at it with: dispatcher demo verify {kept}")


def test_verify_of_no_demo_is_a_clear_error(tmp_path: Path) -> None:
    code, _, said = demo("verify", tmp_path)
    assert code == 2
    assert "dispatcher demo --keep" in said


@pytest.mark.parametrize(
    ("damage", "check"),
    [
        ("DELETE FROM dispatcher.tasks WHERE id = (SELECT task_id FROM shop.orders LIMIT 1)", "lost"),
        ("DELETE FROM shop.orders WHERE id = (SELECT min(id) FROM shop.orders)", "unmatched"),
        ("INSERT INTO shop.deliveries (order_id, attempt, pid) SELECT min(id), 1, 1 FROM shop.orders", "effects_twice"),
        ("UPDATE shop.effects SET digest = 'x' WHERE order_id = (SELECT min(id) FROM shop.orders)", "wrong_results"),
        ("ALTER TABLE dispatcher.task_events DISABLE TRIGGER ALL; DELETE FROM dispatcher.task_events WHERE seq = 2 AND"
         " task_id = (SELECT task_id FROM shop.orders LIMIT 1)", "audit_violations"),
        ("INSERT INTO dispatcher.outbox (task_id, attempt, dispatch, lane_id) VALUES (gen_random_uuid(), 1, 1, 1)",
         "outbox_left"),
    ],
)  # fmt: skip
def test_proof_fails_when_something_is_wrong(damaged: Callable[[str], Proof], damage: str, check: str) -> None:
    proof = damaged(damage)
    assert not proof.ok
    assert check in proof.to_json()["not_held"]


@pytest.fixture
def damaged(open_place: Place) -> Iterator[Callable[[str], Proof]]:
    """Damage in a copy of the database; the kept one stays whole for the other tests."""
    url = open_place.settings.database_url or ""
    made = url.rpartition("/")[0] + "/damaged"
    admin = url.rpartition("/")[0] + "/postgres"
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute("CREATE DATABASE damaged TEMPLATE dispatcher")
    try:

        def judge(damage: str) -> Proof:
            with psycopg.connect(made, autocommit=True) as connection:
                connection.execute(damage.encode())
            return prove(replace(open_place, settings=open_place.settings.model_copy(update={"database_url": made})))

        yield judge
    finally:
        with psycopg.connect(admin, autocommit=True) as connection:
            connection.execute("DROP DATABASE damaged WITH (FORCE)")


def test_handler_of_a_rolled_back_order_would_show(kept: Path, open_place: Place, tmp_path: Path) -> None:
    gone = next(line for line in read(kept / "ledger", "service") if line.mark == Mark.ROLLED_BACK and line.task != "-")
    for name in ("demo.json", "kills.jsonl", "files", "out"):
        (tmp_path / name).symlink_to(kept / name)
    (tmp_path / "ledger").mkdir()
    for path in (kept / "ledger").iterdir():
        (tmp_path / "ledger" / path.name).symlink_to(path)
    before = prove(replace(open_place, root=tmp_path))
    assert before.ok
    Writer(tmp_path / "ledger", "worker").write(Mark.START, gone.task, 1, gone.order)
    assert prove(replace(open_place, root=tmp_path)).to_json()["not_held"] == ["rolled_back_ran"]


def test_work_is_the_same_every_time(tmp_path: Path) -> None:
    names = make_files(tmp_path, 3)
    assert {kind_of(name) for name in names} == set(KINDS)
    for name in names[:8]:
        data = (tmp_path / name).read_bytes()
        assert do(kind_of(name), data) == do(kind_of(name), data)
    small = do("thumbnail", (tmp_path / names[2]).read_bytes())
    assert small.startswith(b"P5 16 16 255\n")
    assert len(small) == 13 + 256
