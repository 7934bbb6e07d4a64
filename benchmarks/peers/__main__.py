"""``make peers``: the same workloads on the same servers for us and for others, one table."""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import signal
import socket
import sys
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import psycopg

from benchmarks.peers.report import markdown
from benchmarks.peers.stage import ROOT, python_of, stage
from benchmarks.peers.workloads import FULL, QUICK, Plan, latency_round, measure, settle_latency
from dispatcher.bench import facts
from dispatcher.bench.errors import BenchError
from dispatcher.bench.rounds import say
from dispatcher.embedded import EmbeddedServers

SYSTEMS = ("ours", "pgqueuer", "procrastinate", "saq", "taskiq")
POSTGRES = {"shared_buffers": "512MB", "max_wal_size": "4GB", "checkpoint_timeout": "15min"}
_BROKERS = (("redis-server", 6379), ("valkey-server", 6379), ("rabbitmq-server", 5672))


def arguments() -> argparse.Namespace:
    """What may be asked for."""
    parser = argparse.ArgumentParser(prog="benchmarks.peers", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round each, to try it out")
    parser.add_argument("--only", default=",".join(SYSTEMS), help="systems, with commas; ours is always measured")
    parser.add_argument("--python", type=Path, default=ROOT / ".venv-peers/bin/python", help="where the others live")
    for name in ("rounds", "depth"):
        parser.add_argument(f"--{name}", type=int)
    for name in ("seconds", "slice-seconds", "system-seconds", "latency-seconds", "idle-seconds", "settle-seconds"):
        parser.add_argument(f"--{name}", type=float)
    given = parser.parse_args()
    given.only = ["ours", *(name for name in given.only.split(",") if name not in ("", "ours"))]
    if unknown := set(given.only) - set(SYSTEMS):
        parser.error(f"--only: unknown {', '.join(sorted(unknown))}; there are {', '.join(SYSTEMS)}")
    return given


def celery() -> str:
    """Why Celery is not in the table: its transports that can be compared need a broker that we do not start."""
    for program, port in _BROKERS:
        with socket.socket() as probe:
            probe.settimeout(0.5)
            if shutil.which(program) or probe.connect_ex(("127.0.0.1", port)) == 0:
                return f"celery: skipped; {program} is here, but this comparison has no figures for Celery yet"
    return "celery: skipped, there is neither Redis nor RabbitMQ on this machine"


def one_system(servers: EmbeddedServers, system: str, python: Path, folder: Path, plan: Plan) -> dict[str, Any]:
    """Its figures, or what went wrong."""
    begun = time.monotonic()
    found: dict[str, Any] = {"about": {"name": system, "keeps": "–", "atomic": False}}
    try:
        with stage(servers, system, python_of(system, python), folder / system) as built:
            found["about"] = built.about
            say(f"{built.about['name']} {built.about['versions']}")
            measure(built, plan, found)
    except BenchError as error:
        found["error"] = str(error)
        say(f"  {system}: {error}")
    return found | {"took_seconds": round(time.monotonic() - begun, 1)}


def latency_in_turn(
    servers: EmbeddedServers, found: dict[str, dict[str, Any]], python: Path, folder: Path, plan: Plan
) -> None:
    """Round by round, one system after the other, each in a database of its own again."""
    for number in range(plan.rounds):
        for system, figures in found.items():
            if "error" in figures:
                continue
            begun = time.monotonic()
            try:
                with stage(servers, system, python_of(system, python), folder / f"{system}-{number}") as built:
                    figures["rounds"].setdefault("latency", []).append(latency_round(built, plan))
            except BenchError as error:
                figures["error"] = str(error)
                say(f"  {system}: {error}")
            figures["took_seconds"] = round(figures["took_seconds"] + time.monotonic() - begun, 1)
    for figures in found.values():
        settle_latency(figures)


async def _facts(servers: EmbeddedServers) -> dict[str, Any]:
    async with await psycopg.AsyncConnection.connect(servers.database_url) as connection:
        return {
            **await facts.durability(connection),
            "versions": await facts.versions(connection, servers.nats_version),
            "settings": await facts.server_settings(connection),
            "machine": facts.machine(),
        }


def main() -> int:
    """Measure, print, and fail when a system could not be measured."""
    given = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if not given.python.exists():
        raise SystemExit(
            f"{given.python} is missing: run 'make peers', which installs the others, or name it: --python"
        )
    chosen = {name: getattr(given, name) for name in asdict(FULL) if getattr(given, name, None) is not None}
    plan = replace(QUICK if given.quick else FULL, **chosen)
    begun = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="peers-", ignore_cleanup_errors=True) as folder,
        EmbeddedServers(postgres_settings=POSTGRES, keep=False) as servers,
    ):
        result = {"bench": "peers", "plan": asdict(plan), **asyncio.run(_facts(servers)), "celery": celery()}
        found = {name: one_system(servers, name, given.python, Path(folder), plan) for name in given.only}
        latency_in_turn(servers, found, given.python, Path(folder), plan)
        result["systems"] = list(found.values())
    result["took_seconds"] = round(time.monotonic() - begun, 1)
    print(markdown(result["systems"]), "", result["celery"], "", sep="\n")
    print(json.dumps(result))
    return int(any("error" in system for system in result["systems"]))


if __name__ == "__main__":
    sys.exit(main())
