"""One SQL text that makes a big finished past: for the tests that pin plans and times."""

from __future__ import annotations

__all__ = ["BACKLOG", "GENERATE"]

# Task n of 1..total is created in millisecond n after 2026-01-01; every thousandth failed (half of those: cancelled).
# Queue 'rare' has one failed task, type 'never.ran' only failed ones, tag 'common' is on every tenth, 'rare' on five.
GENERATE = """
INSERT INTO {s}.queues (name) VALUES ('main'), ('other'), ('rare'), ('empty');
INSERT INTO {s}.lanes (queue_id, name, priority) SELECT id, 'default', 20 FROM {s}.queues;
INSERT INTO {s}.types (name) SELECT 'type.' || n FROM generate_series(1, 10) n;
INSERT INTO {s}.types (name) VALUES ('never.ran'), ('unused');
CREATE TABLE {s}.made AS
SELECT CAST(lpad(to_hex(1767225600000 + n), 12, '0') || '7000' || '8000' || lpad(to_hex(n), 12, '0') AS uuid) AS id,
       n, CASE WHEN n % 1000 <> 0 THEN 6 WHEN n % 2000 = 0 THEN 7 ELSE 8 END AS state,
       CASE WHEN n = 500000 THEN 'rare' WHEN n % 3 = 0 THEN 'other' ELSE 'main' END AS queue,
       CASE WHEN n % 5000 = 0 THEN 'never.ran' ELSE 'type.' || 1 + n % 10 END AS type,
       to_timestamp(1767225600 + n / 1000.0) AS at
FROM generate_series(1, {total}) n;
INSERT INTO {s}.tasks (id, queue_id, lane_id, type_id, state, reason, attempt, tries, max_tries, seq, flags, created_at,
                       started_at, finished_at, args, result)
SELECT m.id, q.id, l.id, t.id, m.state, CASE m.state WHEN 7 THEN 1 WHEN 8 THEN 7 END, 1, 1, 5, 3,
       CASE WHEN n % 10 = 0 THEN 4 ELSE 0 END, m.at, m.at, m.at, '{{"n": 1}}',
       CASE WHEN m.state = 6 THEN CAST('1' AS bytea) END
FROM {s}.made m JOIN {s}.queues q ON q.name = m.queue JOIN {s}.lanes l ON l.queue_id = q.id
JOIN {s}.types t ON t.name = m.type ORDER BY m.id;
INSERT INTO {s}.failures (task_id, tenant_id, queue_id, type_id, state, reason, error, finished_at)
SELECT id, 0, queue_id, type_id, state, reason,
       CASE WHEN state = 7 THEN
           'ValueError: order ' || round(extract(epoch FROM created_at) - 1767225600, 1) || ' is bad' END, finished_at
FROM {s}.tasks WHERE state IN (7, 8);
INSERT INTO {s}.task_events (task_id, seq, from_state, to_state, reason, attempt, at, detail)
SELECT id, 3, 4, state, reason, 1, finished_at, '{{"type": "ValueError", "message": "bad"}}'
FROM {s}.tasks WHERE state IN (7, 8);
INSERT INTO {s}.task_labels (kind, value, task_id)
SELECT 1, 'common', id FROM {s}.made WHERE n % 10 = 0
UNION ALL SELECT 1, 'rare', id FROM {s}.made WHERE n % ({total} / 5) = 0
UNION ALL SELECT 2, 'key-' || n, id FROM {s}.made WHERE n % 1000 = 7;
INSERT INTO {s}.task_counts SELECT queue_id, state, count(*) FROM {s}.tasks GROUP BY 1, 2;
DROP TABLE {s}.made;
"""

# 3,000 tasks that wait: a third in the outbox, the rest in the dispatch log, which also has 20,000 ended ones.
BACKLOG = """
CREATE TABLE {s}.made AS
SELECT CAST(lpad(to_hex(1767225600000 + {total} + n), 12, '0') || '70008000' || lpad(to_hex(n), 12, '0') AS uuid) AS id,
       n
FROM generate_series(1, 3000) n;
INSERT INTO {s}.tasks (id, queue_id, lane_id, type_id, state, max_tries, created_at, args)
SELECT m.id, 1 + n % 2, 1 + n % 2, 1, 3, 5, now(), '{{}}' FROM {s}.made m;
INSERT INTO {s}.task_counts SELECT queue_id, 3, count(*) FROM {s}.tasks WHERE state = 3 GROUP BY 1;
INSERT INTO {s}.task_events (task_id, seq, to_state, attempt, at) SELECT id, 1, 3, 1, now() FROM {s}.made;
INSERT INTO {s}.outbox (task_id, attempt, dispatch, lane_id) SELECT id, 1, 1, 1 + n % 2 FROM {s}.made WHERE n <= 1000;
INSERT INTO {s}.dispatch_log (lane_id, task_ids, attempts, dispatches)
SELECT 1 + n % 2, array_agg(id), array_agg(1), array_agg(1) FROM {s}.made WHERE n > 1000 GROUP BY n % 2, n / 500;
INSERT INTO {s}.dispatch_log (lane_id, task_ids, attempts, dispatches)
SELECT queue_id, array_agg(id), array_agg(1), array_agg(1) FROM (
    SELECT id, queue_id, row_number() OVER () AS n FROM {s}.tasks WHERE state = 6 ORDER BY id DESC LIMIT 20000) t
GROUP BY queue_id, n / 500;
DROP TABLE {s}.made;
"""
