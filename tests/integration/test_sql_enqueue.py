"""``enqueue`` in SQL: the checks of Python, from psql, from a trigger, and from a role that may do nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, cast
from uuid import UUID, uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from psycopg.conninfo import make_conninfo

from dispatcher.errors import KeyConflict
from dispatcher.payload import Payload
from state.ids import created_at
from state.registry import REGISTER_TYPES
from tests.fixtures.apps import app, login, note
from tests.fixtures.fleet import Fleet, until

Connection = psycopg.Connection[Any]


@pytest.fixture
def connection(database_url: str) -> Iterator[Connection]:
    with psycopg.connect(database_url, autocommit=True) as opened:
        yield opened


@pytest.fixture
def role(connection: Connection) -> Iterator[str]:
    """A login that may call ``enqueue`` and nothing else."""
    name = f"only_enqueue_{uuid4().hex[:8]}"
    connection.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'x'")
    connection.execute(f"GRANT USAGE ON SCHEMA dispatcher TO {name}")
    (signature,) = connection.execute("SELECT CAST(CAST('dispatcher.enqueue' AS regproc) AS regprocedure)").fetchone()  # type: ignore[misc]
    connection.execute(f"GRANT EXECUTE ON FUNCTION {signature} TO {name}")
    try:
        yield name
    finally:
        connection.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")


def enqueue(connection: Connection, arguments: str, *values: Any) -> tuple[UUID, bool]:
    row = connection.execute(f"SELECT id, created FROM dispatcher.enqueue({arguments})", values).fetchone()
    assert row
    return row[0], row[1]


async def test_a_trigger_fired_by_a_role_that_may_do_nothing_else_is_pushed(
    fleet: Fleet, database_url: str, role: str
) -> None:
    await fleet.relay()
    await fleet.worker()
    fleet.connection.execute(
        "CREATE TABLE public.orders (id int);"
        " CREATE FUNCTION public.note_order() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        "   PERFORM dispatcher.enqueue('note', jsonb_build_object('value', NEW.id)); RETURN NEW; END $$;"
        " CREATE TRIGGER note_order AFTER INSERT ON public.orders FOR EACH ROW EXECUTE FUNCTION public.note_order();"
        f" GRANT INSERT ON public.orders TO {role}"
    )
    with psycopg.connect(make_conninfo(database_url, user=role, password="x")) as theirs:
        theirs.execute("INSERT INTO public.orders VALUES (7)")
        theirs.rollback()
        theirs.execute("INSERT INTO public.orders VALUES (8)")
        theirs.commit()
        for forbidden in (
            "SELECT FROM dispatcher.tasks",
            "SELECT FROM dispatcher.v_tasks",
            "DELETE FROM dispatcher.outbox",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                theirs.execute(forbidden)
            theirs.rollback()
    entries = await until(lambda: fleet.ledger("ran"), what="the handler")
    assert [entry.value for entry in entries] == ["8"], "the rolled-back row's task never existed"


def test_nobody_may_call_it_unasked(connection: Connection, role: str, database_url: str) -> None:
    (granted,) = connection.execute(
        "SELECT count(*) FROM pg_proc p, aclexplode(p.proacl) a"
        " WHERE p.oid = CAST('dispatcher.enqueue' AS regproc) AND a.grantee = 0"
    ).fetchone()  # type: ignore[misc]
    assert granted == 0
    (config,) = connection.execute(
        "SELECT proconfig FROM pg_proc WHERE oid = CAST('dispatcher.enqueue' AS regproc) AND prosecdef"
    ).fetchone()  # type: ignore[misc]
    assert config == ["search_path=pg_catalog, pg_temp"]
    with psycopg.connect(make_conninfo(database_url, user=role, password="x"), autocommit=True) as theirs:
        # objects of the caller's own must not take the place of ours inside the function
        theirs.execute("CREATE TEMP TABLE types (name text, options jsonb)")
        theirs.execute("SET search_path = pg_temp, public")
        assert enqueue(theirs, "'note'")[1]


BAD = {
    "name => ''": "name must be text of 1 to 200 characters",
    "name => NULL": "name must be text",
    "repeat('x', 201)": "name must be text",
    "'t', '[1]'": "args must be a JSON object",
    "'t', NULL": "args must be a JSON object",
    "'t', jsonb_build_object('x', repeat('y', 1048576))": "over the limit of 1048576",
    "'t', queue => 'no good'": "queue must be 1 to 64",
    "'t', lane => 'a.b'": "lane must be 1 to 64",
    "'t', lane => 'fastest'": 'queue "default" has no lane "fastest"',
    "'t', key => ''": "key must have 1 to 200",
    "'t', key => 'k', key_ttl => '0 s'": "key_ttl must be more than 0 s",
    "'t', delay => '-1 s'": "delay must be at least 0 s",
    "'t', delay => '101 years'": "delay must be at most 100 years",
    "'t', delay => '1 s', run_at => now()": "delay and run_at exclude each other",
    "'t', run_at => 'infinity'": "run_at must be a moment",
    "'t', expires => '0 s'": "expires must be more than 0 s",
    "'t', timeout => '0 s'": "timeout must be more than 0 s",
    "'t', max_attempts => 0": "max_attempts must be 1 to 32767",
    "'t', max_attempts => 40000": "max_attempts must be 1 to 32767",
    "'t', tags => ARRAY['a', '']": "each of tags must have 1 to 200",
    "'t', tags => ARRAY[NULL]": "each of tags must have 1 to 200",
    "'t', headers => '[1]'": "headers must be a JSON object of text to text",
    "'t', headers => '{\"n\": 1}'": "headers must be a JSON object of text to text",
}


def test_bad_calls_name_the_mistake_and_change_nothing(connection: Connection) -> None:
    for arguments, message in BAD.items():
        with pytest.raises(psycopg.Error) as failure:
            enqueue(connection, arguments)
        assert message in str(failure.value.diag.message_primary), arguments
        assert failure.value.sqlstate in ("DS005", "DS002"), arguments
        assert failure.value.diag.message_hint, arguments
    assert connection.execute("SELECT count(*) FROM dispatcher.types").fetchone() == (0,)
    connection.execute("UPDATE dispatcher.relay_state SET outbox_limit = 1, low_id = -1000")
    with pytest.raises(psycopg.Error, match="the outbox is full") as failure:
        enqueue(connection, "'t'")
    assert failure.value.sqlstate == "DS001"


def test_every_option_arrives(connection: Connection) -> None:
    task, created = enqueue(
        connection,
        "'t', '{\"n\": 1}', queue => 'q', lane => 'high', delay => '1 hour', expires => '1 day', key => 'k',"
        " key_ttl => '2 days', max_attempts => 3, tags => '{b,a,b}', headers => '{\"h\": \"v\"}', timeout => '1.5 s'",
    )
    assert created and task.version == 7
    row = connection.execute(
        "SELECT queue, lane, state, max_attempts, key, tags, headers, args, due_at - created_at, expires_at - due_at"
        " FROM dispatcher.v_tasks WHERE id = %s",
        [task],
    ).fetchone()
    assert row is not None
    assert row[:8] == ("q", "high", "scheduled", 3, "k", ["b", "a"], {"h": "v"}, {"n": 1})
    assert [span.total_seconds() for span in row[8:]] == [3600, 86400]
    (meta,) = connection.execute("SELECT meta FROM dispatcher.tasks").fetchone()  # type: ignore[misc]
    assert meta["timeout"] == 1.5
    assert connection.execute("SELECT waits_for FROM dispatcher.v_waiting").fetchall() == [("time",)]


def test_what_workers_registered_are_the_defaults_and_secrets_stay_hidden(connection: Connection) -> None:
    from dispatcher import Dispatcher, Retry

    own = Dispatcher("own", args_limit=100)

    @own.task(name="own", queue="special", lane="low", retry=Retry(max_attempts=9), tags=["t"], expires=60, key="one")
    def own_type(a: int = 0) -> None: ...

    for kind in (login, own_type):
        options = {"names": [kind.name], "options": [json.dumps(kind.registered())]}
        connection.execute(REGISTER_TYPES.psycopg("dispatcher"), options)
    task, _ = enqueue(connection, '\'login\', \'{"user": "ann", "password": "hunter2"}\'')
    one, created = enqueue(connection, "'own'")
    assert created and enqueue(connection, "'own'") == (one, False), "the type's own key"
    columns = "queue, lane, max_attempts, tags, key, expires_at > now()"
    row = connection.execute(f"SELECT {columns} FROM dispatcher.v_tasks WHERE id = %s", [one]).fetchone()
    assert row == ("special", "low", 9, ["t"], "one", True)
    with pytest.raises(psycopg.Error, match="over the limit of 100"):
        enqueue(connection, "'own', jsonb_build_object('a', repeat('y', 100))")
    connection.execute(
        "UPDATE dispatcher.tasks SET state = 6, tries = 1, started_at = now(), finished_at = now(),"
        " result = '\"hunter2\"' WHERE id = %s",
        [task],
    )
    shown = connection.execute("SELECT args, result FROM dispatcher.v_tasks WHERE id = %s", [task]).fetchone()
    assert shown == ({"user": "ann", "password": "**********"}, "**********")
    names = connection.execute("SELECT viewname FROM pg_views WHERE schemaname = 'dispatcher'").fetchall()
    assert len(names) >= 12
    for (name,) in names:
        assert "hunter2" not in str(connection.execute(f"SELECT * FROM dispatcher.{name}").fetchall()), name


def test_a_key_is_the_same_in_python_and_in_sql(connection: Connection) -> None:
    with connection.transaction():
        first = note.options(key="shared").enqueue(connection, 7)
    assert enqueue(connection, "'note', '{\"value\": 7}', key => 'shared'") == (first.id, False)
    with pytest.raises(psycopg.Error, match="already belongs to task") as failure:
        enqueue(connection, "'note', '{\"value\": 8}', key => 'shared'")
    assert failure.value.sqlstate == "DS003"
    second, _ = enqueue(connection, "'note', '{\"value\": 9}', key => 'other'")
    again = note.options(key="other").enqueue(connection, 9)
    assert (again.id, again.created) == (second, False)
    with pytest.raises(KeyConflict):
        note.options(key="other").enqueue(connection, 1)
    app.check()


_TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)
_DOCUMENTS = st.dictionaries(
    _TEXT,
    st.recursive(
        st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats(allow_nan=False, allow_infinity=False)
        | st.sampled_from([1.5e15, 123456789012345.6, 1e15 + 0.5, 9007199254740993.0, 5e-324, 0.0001, 0.00001]) | _TEXT,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3),
        max_leaves=6,
    ),
    max_size=4,
)  # fmt: skip


def test_arguments_hash_alike_in_python_and_in_sql(connection: Connection) -> None:
    @hypothesis_settings(max_examples=200, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(document=_DOCUMENTS)
    def compare(document: dict[str, Any]) -> None:
        row = connection.execute(
            "SELECT CAST(j AS text), dispatcher.args_hash(j) FROM CAST(%s AS jsonb) AS j", [json.dumps(document)]
        ).fetchone()
        assert row is not None
        assert row[1] == Payload.digest(cast(Any, None), row[0].encode()), row[0]

    compare()


def test_ids_rise_and_carry_their_time(connection: Connection) -> None:
    rows = connection.execute("SELECT dispatcher.uuid7(), clock_timestamp() FROM generate_series(1, 1000)").fetchall()
    ids = [row[0] for row in rows]
    assert ids == sorted(set(ids))
    assert all(task.version == 7 and task.variant == "specified in RFC 4122" for task in ids)
    assert all(abs((created_at(row[0]) - row[1]).total_seconds()) < 0.1 for row in rows)
    (bound,) = connection.execute("SELECT dispatcher.id_at(%s)", [rows[500][1]]).fetchone()  # type: ignore[misc]
    assert abs((created_at(bound) - rows[500][1]).total_seconds()) < 0.002
