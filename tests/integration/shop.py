"""Task types for the tests of publishing, and what the database says about their tasks."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg.rows import dict_row
from pydantic import BaseModel, SecretStr

from dispatcher import Dispatcher

app = Dispatcher("shop", schema="dispatcher")


class Receipt(BaseModel):
    order_id: int
    paid: bool = True


@app.task(name="charge", queue="billing")
async def charge(order_id: int, *, currency: str = "EUR") -> Receipt:
    return Receipt(order_id=order_id)


@app.task(name="mail")
def mail(to: str, body: bytes = b"") -> None: ...


@app.task(name="login")
def login(user: str, password: SecretStr) -> SecretStr:
    return password


def rows(database_url: str, sql: str, *params: Any) -> list[dict[str, Any]]:
    with psycopg.connect(database_url, row_factory=dict_row) as connection:
        return connection.execute(sql, params or None).fetchall()


def tasks(database_url: str) -> list[dict[str, Any]]:
    """Every task with its names, the number of its events, outbox rows and timers, in order of id."""
    return rows(
        database_url,
        """
        SELECT t.*, y.name AS type, q.name AS queue, l.name AS lane,
               (SELECT count(*) FROM dispatcher.task_events e WHERE e.task_id = t.id) AS events,
               (SELECT count(*) FROM dispatcher.outbox o WHERE o.task_id = t.id AND o.lane_id = t.lane_id) AS waiting,
               (SELECT array_agg(i.kind ORDER BY i.kind) FROM dispatcher.timers i WHERE i.task_id = t.id) AS timers,
               (SELECT array_agg(b.kind || b.value ORDER BY b.kind, b.value)
                FROM dispatcher.task_labels b WHERE b.task_id = t.id) AS labels
        FROM dispatcher.tasks t JOIN dispatcher.types y ON y.id = t.type_id
        JOIN dispatcher.queues q ON q.id = t.queue_id JOIN dispatcher.lanes l ON l.id = t.lane_id ORDER BY t.id
        """,
    )
