"""Every bench command works on real servers and prints the keys it promises; the figures are nobody's business here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest

from dispatcher.bench.latency import percentile
from dispatcher.bench.rounds import medians, spread
from tests.fixtures.servers import Servers

COMMON = {
    "bench", "fsync", "full_page_writes", "synchronous_commit", "versions", "settings", "machine", "rounds", "spread",
    "workers", "floor", "goal",
}  # fmt: skip
SPEED = {"tasks_per_s", "tasks", "concurrency", "cpu_us_per_task"}


def run(servers: Servers, tmp_path: Path, *arguments: str, url: str | None = None) -> subprocess.CompletedProcess[str]:
    foreign = {name: value for name, value in os.environ.items() if not name.startswith("DISPATCHER_")}
    given = {"DISPATCHER_DATABASE_URL": url or servers.database_url, "DISPATCHER_NATS_URL": servers.nats_url}
    return subprocess.run(
        [sys.executable, "-m", "dispatcher", "bench", *arguments],
        capture_output=True, text=True, timeout=110, cwd=tmp_path, env=foreign | given, check=False,
    )  # fmt: skip


def measure(servers: Servers, tmp_path: Path, *arguments: str) -> dict[str, Any]:
    done = run(servers, tmp_path, *arguments, "--rounds", "1", "--json")
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert result.keys() >= COMMON
    assert result["bench"] == arguments[0]
    assert (result["fsync"], result["full_page_writes"], result["synchronous_commit"]) == ("on", "on", "on")
    assert all(result["versions"][name] for name in ("dispatcher", "python", "postgres", "nats"))
    assert len(result["rounds"]) == 1
    return result


@pytest.mark.parametrize(
    "arguments",
    [
        ("drain", "--tasks", "200"),
        ("sustained", "--tasks", "1200", "--workers", "2"),
        ("single", "--tasks", "100", "--clients", "3"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_speed_is_measured(servers: Servers, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    result = measure(servers, tmp_path, *arguments)
    assert result.keys() >= SPEED
    assert result["tasks_per_s"] > 0
    # on servers that somebody else started only our own processes can be told apart
    assert result["cpu_us_per_task"].keys() >= {"postgres", "nats", "relay", "worker", "total"}
    assert result["cpu_us_per_task"]["worker"] is not None
    assert result["workers"] == (2 if "--workers" in arguments else 1)


def test_latency_is_measured(servers: Servers, tmp_path: Path) -> None:
    result = measure(servers, tmp_path, "latency", "--rate", "40", "--seconds", "1")
    assert result["samples"] == 40
    assert 0 < result["p50_ms"] <= result["p99_ms"] <= result["max_ms"]


def test_flows_are_measured(servers: Servers, tmp_path: Path) -> None:
    fanout = measure(servers, tmp_path, "fanout", "--tasks", "300")
    assert fanout["ratio_to_drain"] > 0 and fanout["tasks_per_s"] > 0
    chain = measure(servers, tmp_path, "chain", "--length", "20")
    assert 0 < chain["p50_ms"] <= chain["p99_ms"] and chain["rounds"][0]["hops"] == 19


def test_idle_is_measured(servers: Servers, tmp_path: Path) -> None:
    result = measure(servers, tmp_path, "idle", "--seconds", "2")
    assert result["workers"] == 2
    assert result["worker_statements"] == 0
    assert "statements_per_minute" in result


def test_people_get_a_table_and_nothing_is_left_behind(servers: Servers, tmp_path: Path) -> None:
    done = run(servers, tmp_path, "drain", "--tasks", "50", "--rounds", "1")
    assert done.returncode == 0, done.stderr
    assert "tasks_per_s" in done.stdout
    assert "12,000" in done.stdout
    assert "fsync=on" in done.stdout
    with psycopg.connect(servers.database_url) as connection:
        left = connection.execute("SELECT nspname FROM pg_namespace WHERE nspname ~ '^dispatcher_bench_'").fetchall()
    assert not left
    assert not list(tmp_path.iterdir())


def test_figures_without_durability_are_refused(servers: Servers, tmp_path: Path, empty_database_url: str) -> None:
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        connection.execute(
            "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET synchronous_commit = off', current_database()); END $$"
        )
    done = run(servers, tmp_path, "drain", "--tasks", "50", url=empty_database_url)
    assert done.returncode == 1
    assert "synchronous_commit=off" in done.stderr
    assert not done.stdout


def test_a_server_that_is_away_is_one_line(servers: Servers, tmp_path: Path) -> None:
    done = run(servers, tmp_path, "drain", "--tasks", "50", url="postgresql://nobody@127.0.0.1:1/none")
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1


def test_percentiles_are_values_that_were_seen() -> None:
    values = [float(number) for number in range(1, 101)]
    assert (percentile(values, 0.5), percentile(values, 0.99), percentile(values, 1.0)) == (50.0, 99.0, 100.0)
    assert percentile([7.0], 0.99) == 7.0


def test_medians_reach_into_mappings_and_admit_what_is_missing() -> None:
    rounds = [{"cpu": {"relay": value, "nats": None}, "n": value} for value in (3.0, 1.0, 2.0)]
    assert medians(rounds, "cpu") == {"relay": 2.0, "nats": None}
    assert spread(rounds, "n") == 1.0
