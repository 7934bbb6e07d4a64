"""When the broker had confirmed each publish: the dispatch log forgets what was acknowledged, this does not.

A deferred trigger of the drill's own writes it at the commit of the relay, which comes when every message of the batch
is confirmed.  Nothing of the product knows of it.
"""

from __future__ import annotations

from typing import Any

import psycopg

from dispatcher.drill.sink import MARK

__all__ = ["PUBLISHED", "SCHEMA", "note_publishes"]

SCHEMA = "drill_notes"
_TABLES = f"""
CREATE SCHEMA {SCHEMA};
COMMENT ON SCHEMA {SCHEMA} IS '{MARK}';
CREATE TABLE {SCHEMA}.published (
    lane_id int NOT NULL, task_ids uuid[] NOT NULL, began timestamptz NOT NULL, confirmed timestamptz NOT NULL);
CREATE FUNCTION {SCHEMA}.note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO {SCHEMA}.published VALUES (NEW.lane_id, NEW.task_ids, NEW.published_at, clock_timestamp());
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER drill_published AFTER INSERT ON {{s}}.dispatch_log
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION {SCHEMA}.note();
"""
PUBLISHED = f"""
SELECT id::text, extract(epoch FROM p.began)::float8, extract(epoch FROM p.confirmed)::float8
FROM {SCHEMA}.published p, unnest(p.task_ids) AS t (id) ORDER BY p.confirmed
"""
"""Task, when the relay began, when it was confirmed."""


def note_publishes(connection: psycopg.Connection[Any], schema: str) -> None:
    """Begin to note every publish of the installation in ``schema``."""
    connection.execute(_TABLES.format(s=schema).encode())
