"""Least-privilege roles of PostgreSQL: what each kind of process may do with each table, as a script to run.

One map says it all; a test compares it with the tables there are, and runs the whole system under the roles.  Rights on
``tasks`` go by column: the relay never reads arguments or results, nobody but the handler's worker and people do, and
nobody at all may change arguments or rewrite the audit trail.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from state.delete import OWNED
from state.sql import Sql, check_schema

__all__ = ["FUNCTIONS", "ROLES", "SEQUENCES", "TABLES", "check_prefix", "role_statements"]

ROLES: Mapping[str, str] = {
    "owner": "owns schema and tables and runs migrations; nothing else logs in as this role",
    "publisher": "services: create tasks in Python or SQL, wait for results",
    "enqueuer": "SQL only: may call enqueue and do nothing else",
    "relay": "relay processes; never reads arguments or results",
    "worker": "worker processes; cannot create tasks",
    "operator": "people: ask everything, cancel, retry, pause, delete",
    "reader": "dashboards and reports: the views, with secrets masked",
}
"""Every role, without its prefix, and what it is for."""
_PREFIX = re.compile(r"[a-z_][a-z0-9_]{0,30}")

_TASK = (
    "id, tenant_id, queue_id, lane_id, type_id, state, reason, attempt, tries, max_tries, generation, dispatch, seq,"
    " flags, session_id, created_at, due_at, expires_at, started_at, finished_at, codec, key_id, payload_version"
)
_MOVE = "state, reason, attempt, tries, dispatch, seq, session_id, due_at, started_at, finished_at"
_NAMES = {"types": "SELECT, INSERT, UPDATE", "queues": "SELECT, INSERT, UPDATE", "lanes": "SELECT, INSERT, UPDATE"}
_ALL = "SELECT, INSERT, UPDATE, DELETE"

TABLES: Mapping[str, Mapping[str, str]] = {
    "publisher": {
        "tasks": f"INSERT, SELECT ({_TASK}, result)",
        **{name: "INSERT" for name in ("task_events", "task_counts", "outbox", "timers", "task_labels")},
        **{name: "INSERT" for name in ("flow_events", "deps")},
        **{name: "SELECT, INSERT" for name in ("flows", "flow_nodes", "joins")},
        **{name: "SELECT, INSERT" for name in ("types", "queues", "lanes")},
        "task_keys": "SELECT, INSERT, DELETE",
        "relay_state": "SELECT",
        "failures": "SELECT",
        "schema_version": "SELECT",
    },
    "enqueuer": {},
    "relay": {
        "tasks": f"SELECT ({_TASK}, meta), UPDATE ({_MOVE}, flags), DELETE",
        **_NAMES,
        **{name: "SELECT, DELETE" for name in OWNED},
        "task_events": "SELECT, INSERT, DELETE",
        **{name: _ALL for name in ("outbox", "dispatch_log", "timers", "failures", "parked")},
        "task_counts": "SELECT, INSERT, DELETE",
        "cancel_requests": _ALL,
        "flows": "SELECT, UPDATE, DELETE",
        **{name: "SELECT, DELETE" for name in ("flow_events", "flow_nodes", "deps", "joins")},
        "sessions": "SELECT, UPDATE, DELETE",
        "claims": "SELECT, DELETE",
        "session_log": "SELECT, DELETE",
        "relay_state": "SELECT, UPDATE",
        "streams_seen": "SELECT, INSERT, UPDATE",
        "schema_version": "SELECT",
    },
    "worker": {
        "tasks": f"SELECT, UPDATE ({_MOVE}, result)",
        **_NAMES,
        **{name: "INSERT" for name in ("task_counts", "outbox", "quarantine", "attempt_logs")},
        **{name: "SELECT, INSERT" for name in ("task_events", "task_steps")},
        **{name: "SELECT" for name in ("flows", "flow_nodes", "deps")},
        **{name: _ALL for name in ("sessions", "timers", "parked")},
        "session_log": "SELECT, INSERT",
        "claims": "SELECT, INSERT, DELETE",
        "cancel_requests": "SELECT, DELETE",
        "failures": "SELECT, INSERT, UPDATE",
        "progress": "SELECT, INSERT, UPDATE",
        "schema_version": "SELECT",
    },
    "operator": {
        "tasks": f"SELECT, INSERT, UPDATE ({_MOVE}, generation, flags, expires_at, result), DELETE",
        **_NAMES,
        **{name: _ALL for name in OWNED},
        "task_events": "SELECT, INSERT, DELETE",
        **{name: _ALL for name in ("flows", "flow_nodes", "deps", "joins")},
        "flow_events": "SELECT, INSERT, DELETE",
        "outbox": "SELECT, INSERT",
        "task_counts": "SELECT, INSERT",
        "cancel_requests": "SELECT, INSERT, UPDATE",
        "session_log": "SELECT, DELETE",
        "quarantine": "SELECT, DELETE",
        "deletions": "SELECT, INSERT, UPDATE",
        **{
            name: "SELECT"
            for name in ("dispatch_log", "claims", "sessions", "relay_state", "streams_seen", "task_moves")
        },
        "schema_version": "SELECT",
    },
    "reader": {},
}
"""Rights by role and table.  The owner has them all."""
SEQUENCES = {"outbox_id_seq": ("publisher", "relay", "operator")}
"""How far the outbox is: read by whoever creates tasks, and by the relay."""
FUNCTIONS: Mapping[str, Sequence[str]] = {
    "enqueue": ("publisher", "enqueuer", "operator"),
    "newest_entry": ("publisher", "relay", "worker", "operator"),
    "release": ("relay", "worker", "operator"),
    "revive": ("operator",),
    "complete_task": ("worker",),
    "suspend_task": ("worker",),
}
"""Functions that act with the rights of the owner, and who may call them."""
_MAY_READ_VIEWS = ("reader", "operator")

_HEAD = """
-- Roles of the dispatcher in schema {s}.  Run as a superuser after: dispatcher migrate up
-- May be run again at any time, and should be after each migration: rights are given anew from scratch.
-- No passwords here.  A new role cannot log in before it has one, in psql: \\password {p}worker
BEGIN;
DO $roles$
DECLARE
    v_name text; v_change text;
BEGIN
    FOREACH v_name IN ARRAY CAST('{{names}}' AS text[]) LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = v_name) THEN
            EXECUTE format('CREATE ROLE %I LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOBYPASSRLS', v_name);
        END IF;
    END LOOP;
    -- "create the schema if it is not there", which migrations do first, asks for this right even if it is
    EXECUTE format('GRANT CREATE ON DATABASE %I TO {p}owner', current_database());
    FOR v_change IN
        SELECT format('ALTER %s %s OWNER TO {p}owner', CASE relkind WHEN 'v' THEN 'VIEW' ELSE 'TABLE' END,
                      CAST(oid AS regclass))
        FROM pg_class WHERE relnamespace = CAST('{s}' AS regnamespace) AND relkind IN ('r', 'p', 'v')
        UNION ALL
        SELECT format('ALTER FUNCTION %s OWNER TO {p}owner', CAST(oid AS regprocedure))
        FROM pg_proc WHERE pronamespace = CAST('{s}' AS regnamespace)
    LOOP
        EXECUTE v_change;
    END LOOP;
END $roles$;
ALTER SCHEMA {s} OWNER TO {p}owner;
REVOKE ALL ON SCHEMA {s} FROM PUBLIC;
"""


def check_prefix(prefix: str) -> str:
    """Return ``prefix`` if role names may begin with it; raise ``ValueError`` naming the rule otherwise."""
    if not _PREFIX.fullmatch(prefix):
        raise ValueError(
            f"prefix {prefix!r} is not legal: use 1 to 31 lower-case letters, digits and underscores, not starting"
            " with a digit"
        )
    return prefix


def role_statements(schema: str, prefix: str, views: Sequence[str]) -> str:
    """The script that makes the roles and gives them their rights; idempotent, one transaction."""
    prefix = check_prefix(prefix)
    names = {role: f"{prefix}{role}" for role in ROLES}
    others = ", ".join(name for role, name in names.items() if role != "owner")
    head = _HEAD.replace("{{names}}", "{" + ",".join(names.values()) + "}").replace("{p}", prefix)
    lines = [head.strip(), f"REVOKE ALL ON ALL TABLES IN SCHEMA {{s}} FROM {others};"]
    lines += [
        f"REVOKE ALL ON ALL SEQUENCES IN SCHEMA {{s}} FROM {others};",
        f"GRANT USAGE ON SCHEMA {{s}} TO {others};",
    ]
    for role, tables in TABLES.items():
        lines.append(f"-- {names[role]}: {ROLES[role]}")
        lines += [f"GRANT {rights} ON {{s}}.{table} TO {names[role]};" for table, rights in tables.items()]
        if role in _MAY_READ_VIEWS:
            lines.append(f"GRANT SELECT ON {', '.join(f'{{s}}.{view}' for view in views)} TO {names[role]};")
        lines += [
            f"GRANT EXECUTE ON FUNCTION {{s}}.{name} TO {names[role]};"
            for name, who in FUNCTIONS.items()
            if role in who
        ]
        lines += [f"GRANT SELECT ON {{s}}.{name} TO {names[role]};" for name, who in SEQUENCES.items() if role in who]
    return Sql("\n".join([*lines, "COMMIT;"])).sqlalchemy(check_schema(schema)) + "\n"
