"""Queues, lanes and task types: the small tables that give names their numbers."""

from __future__ import annotations

from state.sql import Sql

__all__ = ["LANE_MAP", "OUTBOX_WAITS", "QUEUE_IDS", "REGISTER_QUEUE", "REGISTER_TYPES", "TYPE_IDS"]

REGISTER_QUEUE = Sql(
    """
    WITH given AS (
        SELECT CAST(:name AS text) AS name, CAST(:stream AS text) AS stream
    ), before AS (
        SELECT q.id, q.stream FROM {s}.queues q JOIN given g USING (name)
    ), queue AS (
        INSERT INTO {s}.queues AS q (name, stream) SELECT name, stream FROM given
        ON CONFLICT (name) DO UPDATE SET stream = EXCLUDED.stream
        RETURNING q.id
    ), lane AS (
        INSERT INTO {s}.lanes AS l (queue_id, name, priority)
        SELECT q.id, p.name, p.priority
        FROM queue q, unnest(CAST(:lanes AS text[]), CAST(:priorities AS smallint[])) AS p (name, priority)
        ORDER BY p.name
        ON CONFLICT (queue_id, name) DO UPDATE SET priority = EXCLUDED.priority
            WHERE l.priority <> EXCLUDED.priority
        RETURNING l.id
    )
    SELECT EXISTS (SELECT FROM lane) OR (SELECT b.stream FROM before b) IS DISTINCT FROM (SELECT g.stream FROM given g)
    """
)
"""Make the queue or set its stream, add its lanes, set their priorities; lanes that are not named stay.  Idempotent.

Returns one row: whether anything was not so before."""

REGISTER_TYPES = Sql(
    """
    INSERT INTO {s}.types AS t (name, options)
    SELECT DISTINCT ON (g.name) g.name, CAST(g.options AS jsonb)
    FROM unnest(CAST(:names AS text[]), CAST(:options AS text[])) WITH ORDINALITY AS g (name, options, n)
    ORDER BY g.name, g.n DESC
    ON CONFLICT (name) DO UPDATE SET options = EXCLUDED.options
        WHERE EXCLUDED.options IS NOT NULL AND t.options IS DISTINCT FROM EXCLUDED.options
    """
)
"""Make task types and write their options (JSON texts, NULL: leave as they are).  Idempotent; the last of two wins."""

LANE_MAP = Sql(
    """
    SELECT l.id, q.name, l.name, q.stream, l.priority, q.id, q.paused
    FROM {s}.lanes l JOIN {s}.queues q ON q.id = l.queue_id
    ORDER BY q.name, l.priority, l.id
    """
)
"""Every lane: lane id, queue, lane, stream, priority, queue id, whether the queue is paused."""

TYPE_IDS = Sql("SELECT id, name FROM {s}.types WHERE name = ANY (CAST(:names AS text[]))")
"""The numbers of task types."""

QUEUE_IDS = Sql("SELECT id, name FROM {s}.queues WHERE name = ANY (CAST(:names AS text[]))")
"""The numbers of queues."""

OUTBOX_WAITS = Sql(
    """
    SELECT EXISTS (
        SELECT FROM {s}.outbox o JOIN {s}.lanes l ON l.id = o.lane_id JOIN {s}.queues q ON q.id = l.queue_id
        WHERE q.name = ANY (CAST(:names AS text[])))
    """
)
"""Whether tasks of these queues are not published yet."""
