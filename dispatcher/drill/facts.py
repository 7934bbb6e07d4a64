"""What the checker judges: read once from the database, the ledgers and the logs, without asking any code of ours."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import psycopg

from dispatcher.dev.ledger import Line, read
from dispatcher.drill.publishes import PUBLISHED
from dispatcher.drill.sink import SCHEMA
from dispatcher.drill.tasks import CANARY
from state.audit import CHECKS
from state.audit_sides import AGREEMENTS, QUIET

__all__ = ["Event", "Facts", "Rows", "Task", "gather"]

Rows = Callable[[str], list[tuple[Any, ...]]]
"""Asks the database; ``{s}`` stands for the dispatcher's schema."""

_TASKS = """
SELECT t.id::text, coalesce((convert_from(t.args, 'UTF8')::jsonb ->> 'order')::bigint, 0), y.name, t.state,
       t.attempt, t.tries, t.max_tries, convert_from(t.result, 'UTF8'), extract(epoch FROM t.created_at)::float8,
       extract(epoch FROM t.finished_at)::float8, extract(epoch FROM t.due_at)::float8
FROM {s}.tasks t JOIN {s}.types y ON y.id = t.type_id
"""
_EVENTS = """
SELECT task_id::text, seq, from_state, to_state, reason, attempt, extract(epoch FROM at)::float8
FROM {s}.task_events ORDER BY task_id, seq
"""
_RESCUED = """
SELECT l.worker, count(*) FROM {s}.task_events e JOIN {s}.session_log l ON l.session_id = e.session_id
WHERE e.from_state = 4 AND e.reason = 3 GROUP BY 1
"""
_OFFERS = "SELECT task_id::text, attempt, accepted FROM {sink}.offers ORDER BY id"
_SHOWN = """
SELECT count(*), count(*) FILTER (WHERE detail::text LIKE %(canary)s) FROM {s}.task_events WHERE detail IS NOT NULL
UNION ALL SELECT count(*), count(*) FILTER (WHERE error LIKE %(canary)s) FROM {s}.failures
UNION ALL SELECT count(*), count(*) FILTER (WHERE value LIKE %(canary)s) FROM {s}.task_labels
"""


class Task(NamedTuple):
    """One row."""

    id: str
    order: int
    """Of the client; 0 for a task that another task created."""
    type: str
    state: int
    attempt: int
    tries: int
    max_tries: int
    result: str | None
    created: float
    finished: float | None
    due: float | None


class Event(NamedTuple):
    """One move."""

    task: str
    seq: int
    from_state: int | None
    to_state: int
    reason: int | None
    attempt: int
    at: float


@dataclass
class Facts:
    """Everything, as read."""

    tasks: dict[str, Task]
    events: dict[str, list[Event]]
    offers: list[tuple[str, int, bool]]
    """What the sink was offered, in its order: task, attempt, accepted."""
    published: Mapping[str, list[tuple[float, float]]]
    """When the relay began and when the broker had confirmed each publish of a task, in order."""
    client: list[Line]
    worker: list[Line]
    rescued: Mapping[str, int]
    """How many attempts the rescuer took from each worker."""
    audit: Mapping[str, list[str]]
    """Violations that the statements of ``state.audit`` found, by name."""
    sides: Mapping[str, list[str]]
    """The same of ``state.audit_sides``: whether the side tables agree."""
    left: Mapping[str, list[str]]
    """Side tables that should be empty and are not."""
    shown: tuple[int, list[str]]
    """Texts and files looked at for the secret, and where it was found."""
    faults: list[dict[str, Any]] = field(default_factory=list)
    own: Any = None
    """What only the work of this drill has."""

    @property
    def all_events(self) -> Iterator[Event]:
        """Every event of every task."""
        return (event for events in self.events.values() for event in events)

    def lines(self, *marks: str) -> list[Line]:
        """Lines of the ledgers with one of these marks."""
        return [line for line in (*self.client, *self.worker) if line.mark in marks]


def gather(
    database_url: str,
    schema: str,
    root: Path,
    faults: list[dict[str, Any]],
    own: Callable[[Rows], Any] = lambda rows: None,
) -> Facts:
    """Read everything, with ``own`` what only this drill has.  Changes nothing; may be repeated at any time later."""
    with psycopg.connect(database_url, autocommit=True) as connection:

        def rows(sql: str, params: Mapping[str, Any] | None = None) -> list[tuple[Any, ...]]:
            return connection.execute(sql.replace("{s}", schema).replace("{sink}", SCHEMA).encode(), params).fetchall()

        def found(checks: Mapping[str, Any]) -> dict[str, list[str]]:
            return {name: [f"{row[0]}: {row[1]}" for row in rows(sql.text)] for name, sql in checks.items()}

        events: dict[str, list[Event]] = {}
        for row in rows(_EVENTS):
            events.setdefault(row[0], []).append(Event(*row))
        published: dict[str, list[tuple[float, float]]] = {}
        for task, began, confirmed in rows(PUBLISHED):
            published.setdefault(task, []).append((began, confirmed))
        searched, (files, places) = rows(_SHOWN, {"canary": f"%{CANARY}%"}), _search(root)
        return Facts(
            tasks={row[0]: Task(*row) for row in rows(_TASKS)},
            events=events,
            published=published,
            offers=[(row[0], row[1], row[2]) for row in rows(_OFFERS)],
            client=list(read(root / "ledger", "client")),
            worker=list(read(root / "ledger", "worker")),
            rescued={str(row[0]): int(row[1]) for row in rows(_RESCUED)},
            audit=found(CHECKS),
            sides=found(AGREEMENTS),
            left=found(QUIET),
            shown=(
                files + sum(row[0] for row in searched),
                places + [f"{row[1]} texts in the database" for row in searched if row[1]],
            ),
            faults=faults,
            own=own(rows),
        )


def _search(root: Path) -> tuple[int, list[str]]:
    """Look for the secret in every log and in the broker's store; it lies in the arguments and nowhere else."""
    folders = [root / "logs", root / "ledger", root / "servers" / "nats", root.parent / "nats"]
    files = [path for folder in folders if folder.is_dir() for path in folder.rglob("*") if path.is_file()]
    return len(files), [str(path.relative_to(root.parent)) for path in files if CANARY.encode() in path.read_bytes()]
