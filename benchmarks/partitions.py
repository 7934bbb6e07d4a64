"""Does partitioning ``tasks`` by id cost anything?  Claim + settle on the plain table against 24 range partitions.

    python benchmarks/partitions.py [--tasks 40000] [--rounds 3]

Prints the CPU of the PostgreSQL backend per task (user + system time of the one process that runs the statements) for
both shapes, alternating, so that the ratio holds on a noisy machine.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from pathlib import Path
from uuid import UUID, uuid4

import psycopg

from dispatcher.embedded import EmbeddedServers
from state import claims, sessions, settle
from state.ids import new_ids
from state.migrate import upgrade
from state.sql import Sql

BATCH = 200
PARTITIONS = 24
INSERT = Sql("""
SELECT * FROM {s}.create_tasks(ARRAY['noop'], ARRAY['default'], ARRAY['default'],
    CAST(:ids AS uuid[]), CAST(:ones AS int[]), CAST(:args AS bytea[]), CAST(:tries AS int[]), CAST(:flags AS int[]))
""")


def cpu_seconds(pid: int) -> float:
    """User and system time of one process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def partition(connection: psycopg.Connection, schema: str, ids: list[UUID]) -> None:
    """Replace the empty ``tasks`` of ``schema`` by one with a partition per equal share of ``ids``."""
    connection.execute(f"ALTER TABLE {schema}.tasks RENAME TO tasks_plain")
    connection.execute(
        f"CREATE TABLE {schema}.tasks (LIKE {schema}.tasks_plain INCLUDING DEFAULTS INCLUDING CONSTRAINTS,"
        " PRIMARY KEY (id)) PARTITION BY RANGE (id)"
    )
    connection.execute(f"CREATE INDEX ON {schema}.tasks (queue_id, id)")
    connection.execute(f"CREATE INDEX ON {schema}.tasks (type_id, id)")
    bounds = ["MINVALUE", *(f"'{ids[len(ids) * i // PARTITIONS]}'" for i in range(1, PARTITIONS)), "MAXVALUE"]
    for i in range(PARTITIONS):
        connection.execute(
            f"CREATE TABLE {schema}.tasks_{i} PARTITION OF {schema}.tasks"
            f" FOR VALUES FROM ({bounds[i]}) TO ({bounds[i + 1]}) WITH (fillfactor = 50)"
        )


def run(url: str, schema: str, ids: list[UUID]) -> float:
    """Create, claim and settle all of ``ids``; returns CPU µs per task of claim + settle."""
    options = "-c plan_cache_mode=force_generic_plan"
    with psycopg.connect(url, autocommit=True, options=options, prepare_threshold=0) as connection:
        for i in range(0, len(ids), 1000):
            part = ids[i : i + 1000]
            n = len(part)
            values = {"ids": part, "ones": [1] * n, "args": [b"{}"] * n, "tries": [5] * n, "flags": [0] * n}
            connection.execute(INSERT.psycopg(schema), values)
        connection.execute(f"ANALYZE {schema}.tasks")
        opened = {"worker": "bench", "boot": uuid4(), "lease": 600.0}
        session = connection.execute(sessions.OPEN.psycopg(schema), opened).fetchone()[0]  # type: ignore[index]
        types = [row[0] for row in connection.execute(f"SELECT id FROM {schema}.types")]
        before = cpu_seconds(connection.info.backend_pid)
        for batch, i in enumerate(range(0, len(ids), BATCH), 1):
            part = ids[i : i + BATCH]
            common = {"session": session, "ids": part, "attempts": [1] * len(part)}
            connection.execute(claims.CLAIM.psycopg(schema), {**common, "types": types, "batch": batch})
            done = {**common, "results": [b"null"] * len(part), "batches": [batch]}
            assert connection.execute(settle.SUCCEED.psycopg(schema), done).fetchone() == (None,)
        return (cpu_seconds(connection.info.backend_pid) - before) / len(ids) * 1e6


def main() -> None:
    """Alternate the two shapes and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=40_000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    figures: dict[str, list[float]] = {"plain": [], "partitioned": []}
    with tempfile.TemporaryDirectory() as folder, EmbeddedServers(Path(folder) / "servers", keep=False) as servers:
        for number in range(arguments.rounds):
            for shape, seen in figures.items():
                schema, ids = f"{shape}_{number}", new_ids(arguments.tasks)
                upgrade(servers.database_url, schema)
                if shape == "partitioned":
                    with psycopg.connect(servers.database_url, autocommit=True) as connection:
                        partition(connection, schema, ids)
                seen.append(run(servers.database_url, schema, ids))
    for shape, seen in figures.items():
        print(f"{shape:12} {statistics.median(seen):5.1f} µs a task ({min(seen):.1f} to {max(seen):.1f})")
    print(f"ratio        {statistics.median(figures['partitioned']) / statistics.median(figures['plain']):5.2f}")


if __name__ == "__main__":
    main()
