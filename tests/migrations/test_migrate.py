"""Migrations: there and back, in any schema, side by side, from many processes, never on unknown ground."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row

import state.migrations
from state import migrate
from state.errors import RevisionUnknown, SchemaBusy, SchemaError, SchemaMissing, SchemaTooNew, SchemaTooOld
from state.locks import MIGRATE, advisory_key
from tests.migrations.catalog import catalog


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database_url, autocommit=True) as opened:
        yield opened


def _pretend(connection: psycopg.Connection, revision: str, schema: str = "dispatcher") -> None:
    connection.execute(f"UPDATE {schema}.schema_version SET version_num = %s", [revision])


def test_expected_revision_is_alembics_head() -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(state.migrations.__file__).parent))
    assert ScriptDirectory.from_config(config).get_current_head() == migrate.expected_revision()


def test_up_down_and_up_again_gives_the_same_tables(database_url: str) -> None:
    first = catalog(database_url, "dispatcher")
    migrate.downgrade(database_url)
    assert not any(catalog(database_url, "dispatcher").values())
    assert migrate.status(database_url).verdict == "missing"
    migrate.upgrade(database_url)
    assert catalog(database_url, "dispatcher") == first
    assert migrate.status(database_url).verdict == "current"


def test_up_twice_changes_nothing(database_url: str) -> None:
    before = catalog(database_url, "dispatcher")
    migrate.upgrade(database_url)
    assert catalog(database_url, "dispatcher") == before


def test_two_schemas_live_in_one_database(database_url: str, connection: psycopg.Connection) -> None:
    migrate.upgrade(database_url, "second_house")
    migrate.check_schema_version(database_url, "second_house")
    ours = catalog(database_url, "second_house")
    assert "dispatcher." not in str({part: rows for part, rows in ours.items() if part != "functions"})
    insert = "INSERT INTO {}.queues (name) VALUES ('q')"
    connection.execute(insert.format("second_house"))
    connection.execute(insert.format("dispatcher"))
    migrate.downgrade(database_url, "second_house")
    migrate.check_schema_version(database_url)
    with pytest.raises(SchemaMissing):
        migrate.check_schema_version(database_url, "second_house")


def test_functions_of_a_second_schema_stay_in_it(database_url: str, connection: psycopg.Connection) -> None:
    migrate.upgrade(database_url, "second_house")
    connection.execute(
        "SELECT * FROM second_house.create_task(%s, 'mail.send', 'mail', 'default', 'x', 3, 0, NULL, 5, NULL, NULL,"
        " 'key', 'hash', NULL)",
        ["018f0000-0000-7000-8000-000000000001"],
    )
    count = "SELECT count(*) FROM {}.tasks"
    assert connection.execute(count.format("second_house")).fetchone() == (1,)
    assert connection.execute(count.format("dispatcher")).fetchone() == (0,)


@pytest.mark.parametrize("name", ["Upper", "a b", "x; drop schema public", "", "1st", "a" * 49])
def test_illegal_schema_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="not a legal name"):
        migrate.upgrade("postgresql://127.0.0.1:1/x", name)


def test_sql_output_applied_by_hand_gives_the_same(database_url: str, connection: psycopg.Connection) -> None:
    migrate.upgrade(database_url, "by_hand")
    by_alembic = catalog(database_url, "by_hand")
    connection.execute("DROP SCHEMA by_hand CASCADE")
    connection.execute(migrate.sql("by_hand"))
    assert catalog(database_url, "by_hand") == by_alembic
    migrate.check_schema_version(database_url, "by_hand")
    connection.execute(migrate.sql("by_hand", "base", since=migrate.EXPECTED_REVISION, down=True))
    assert not any(catalog(database_url, "by_hand").values())


def test_too_old_names_the_cure(database_url: str, connection: psycopg.Connection) -> None:
    _pretend(connection, "0000")
    with pytest.raises(
        SchemaTooOld, match=rf"revision 0000.* needs {migrate.EXPECTED_REVISION}; .*dispatcher migrate up$"
    ):
        migrate.check_schema_version(database_url)
    assert migrate.status(database_url).verdict == "too_old"


@pytest.mark.parametrize("revision", [f"{int(migrate.EXPECTED_REVISION) + 1:04}", "9999", "made_elsewhere"])
def test_too_new_names_the_cure(database_url: str, connection: psycopg.Connection, revision: str) -> None:
    _pretend(connection, revision)
    with pytest.raises(SchemaTooNew, match=r"pip install --upgrade jetstream-dispatcher"):
        migrate.check_schema_version(database_url)
    for change in (migrate.upgrade, migrate.downgrade):
        with pytest.raises(SchemaTooNew):
            change(database_url)
    status = migrate.status(database_url)
    assert (status.verdict, status.pending) == ("too_new", ())


def test_missing_names_the_cure_with_the_schema(database_url: str) -> None:
    with pytest.raises(SchemaMissing, match=r"schema elsewhere; create them with: .* up --schema elsewhere$"):
        migrate.check_schema_version(database_url, "elsewhere")
    with pytest.raises(SchemaMissing):
        migrate.downgrade(database_url, "elsewhere")
    assert migrate.status(database_url, "elsewhere").pending[-1] == migrate.EXPECTED_REVISION


def test_unknown_revision_is_refused(database_url: str) -> None:
    with pytest.raises(RevisionUnknown, match="'0042'"):
        migrate.upgrade(database_url, revision="0042")


async def test_check_for_asynchronous_callers(database_url: str) -> None:
    await migrate.check_schema_version_async(database_url)
    async with await psycopg.AsyncConnection.connect(database_url, row_factory=dict_row) as open_connection:
        await migrate.check_schema_version_async(open_connection)
        assert open_connection.info.transaction_status == TransactionStatus.IDLE
        with pytest.raises(SchemaMissing):
            await migrate.check_schema_version_async(open_connection, "elsewhere")
        assert open_connection.info.transaction_status == TransactionStatus.IDLE


def _status(connection: psycopg.Connection[Any]) -> TransactionStatus:
    return connection.info.transaction_status


def test_check_leaves_the_connection_as_it_was(database_url: str) -> None:
    with psycopg.connect(database_url, row_factory=dict_row) as open_connection:
        migrate.check_schema_version(open_connection)
        assert _status(open_connection) == TransactionStatus.IDLE
        open_connection.execute("CREATE TEMPORARY TABLE mine (id int)")
        with pytest.raises(SchemaError):
            migrate.check_schema_version(open_connection, "elsewhere")
        assert _status(open_connection) == TransactionStatus.INTRANS
        open_connection.execute("SELECT * FROM mine")


def test_check_loads_neither_alembic_nor_sqlalchemy(database_url: str) -> None:
    code = (
        "import sys; from state.migrate import check_schema_version; check_schema_version(sys.argv[1]);"
        "sys.exit(', '.join({'alembic', 'sqlalchemy'} & set(sys.modules)) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code, database_url], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def _wait_for_waiters(connection: psycopg.Connection, key: tuple[int, int], wanted: int) -> None:
    """Until so many sessions wait for the advisory lock."""
    unsigned = [part & 0xFFFFFFFF for part in key]
    query = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND classid = %s AND objid = %s"
    give_up = time.monotonic() + 30
    while connection.execute(query, unsigned).fetchone() != (wanted,):
        assert time.monotonic() < give_up, "the migrations never waited for the lock"
        connection.execute("SELECT pg_stat_clear_snapshot(), pg_sleep(0.02)")


def test_concurrent_up_from_two_processes(database_url: str, connection: psycopg.Connection) -> None:
    key = advisory_key("twice", MIGRATE)
    connection.execute("SELECT pg_advisory_lock(%s, %s)", key)
    command = [sys.executable, "-m", "dispatcher", "migrate", "up", "--schema", "twice", "--database-url", database_url]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    _wait_for_waiters(connection, key, 2)
    connection.execute("SELECT pg_advisory_unlock(%s, %s)", key)
    for process in running:
        _, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (0, "")
    migrate.check_schema_version(database_url, "twice")


def test_a_migration_that_cannot_get_its_lock_gives_up(database_url: str, connection: psycopg.Connection) -> None:
    connection.execute("SELECT pg_advisory_lock(%s, %s)", advisory_key("busy", MIGRATE))
    with pytest.raises(SchemaBusy, match="nothing was changed"):
        migrate.upgrade(database_url, "busy", lock_timeout=0.1)
    assert connection.execute("SELECT to_regnamespace('busy')").fetchone() == (None,)


def test_a_failing_migration_changes_nothing(database_url: str, connection: psycopg.Connection) -> None:
    connection.execute("CREATE SCHEMA half; CREATE TABLE half.quarantine (mine int)")
    with pytest.raises(Exception, match="already exists"):
        migrate.upgrade(database_url, "half")
    assert connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'half'").fetchone() == (1,)


def test_strict_isolation_by_default_does_not_matter(database_url: str, connection: psycopg.Connection) -> None:
    name = urlsplit(database_url).path.removeprefix("/")
    connection.execute(f"ALTER DATABASE \"{name}\" SET default_transaction_isolation = 'serializable'")
    migrate.upgrade(database_url, "strict_house")
    migrate.check_schema_version(database_url, "strict_house")
    assert connection.execute("SELECT to_regclass('strict_house.tasks') IS NOT NULL").fetchone() == (True,)
