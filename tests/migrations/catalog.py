"""What PostgreSQL's own catalog says about one schema, in a form that can be compared."""

from __future__ import annotations

from typing import Any

import psycopg

QUERIES = {
    "columns": """
        SELECT c.relname, a.attnum, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity,
               pg_get_expr(d.adbin, d.adrelid)
        FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
        LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
        WHERE c.relnamespace = CAST(%(schema)s AS regnamespace) AND c.relkind = 'r' AND a.attnum > 0
          AND NOT a.attisdropped""",
    "constraints": """
        SELECT c.relname, k.conname, k.contype, pg_get_constraintdef(k.oid)
        FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid
        WHERE c.relnamespace = CAST(%(schema)s AS regnamespace) AND k.contype <> 'n'""",
    "indexes": "SELECT tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = %(schema)s",
    "storage": """
        SELECT c.relname, o FROM pg_class c, unnest(c.reloptions) AS o
        WHERE c.relnamespace = CAST(%(schema)s AS regnamespace)""",
    "functions": """
        SELECT p.proname, pg_get_functiondef(p.oid) FROM pg_proc p
        WHERE p.pronamespace = CAST(%(schema)s AS regnamespace)""",
    "views": """
        SELECT c.relname, pg_get_viewdef(c.oid) FROM pg_class c
        WHERE c.relnamespace = CAST(%(schema)s AS regnamespace) AND c.relkind = 'v'""",
    "triggers": """
        SELECT c.relname, t.tgname, pg_get_triggerdef(t.oid) FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
        WHERE c.relnamespace = CAST(%(schema)s AS regnamespace) AND NOT t.tgisinternal""",
}
TABLES_ONLY = ("columns", "constraints", "indexes", "storage")


def catalog(url: str, schema: str, parts: tuple[str, ...] = tuple(QUERIES)) -> dict[str, list[tuple[Any, ...]]]:
    """Every object of a schema, sorted, with the schema's own name taken out; our version table is left out."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET search_path = pg_catalog")  # so that every name is written with its schema
        return {
            part: sorted(
                tuple(str(cell).replace(f"{schema}.", "SCHEMA.") for cell in row)
                for row in connection.execute(QUERIES[part], {"schema": schema})
                if row[0] != "schema_version"
            )
            for part in parts
        }
