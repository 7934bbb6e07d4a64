"""``dispatcher migrate`` from the command line: results, JSON and exit codes."""

from __future__ import annotations

import io
import json
from pathlib import Path

import psycopg
import pytest

from dispatcher.cli.main import main
from state import migrate
from state.migrations import versions


def run(*args: str) -> int:
    """The exit code of a command run in this process."""
    with pytest.raises(SystemExit) as left:
        main(args)
    return int(left.value.code or 0)


def test_the_whole_life(
    empty_database_url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISPATCHER_DATABASE_URL", empty_database_url)
    assert run("migrate", "status", "--check", "--json") == 4
    assert versions.__file__ is not None
    assert json.loads(capsys.readouterr().out) == {
        "schema": "dispatcher",
        "found": None,
        "expected": migrate.EXPECTED_REVISION,
        "verdict": "missing",
        "pending": sorted(file.stem[1:5] for file in Path(versions.__file__).parent.glob("m*.py")),
    }
    assert run("migrate", "up") == 0
    assert "current: fits" in capsys.readouterr().out
    assert run("migrate", "status", "--check") == 0
    capsys.readouterr()
    assert run("migrate", "down", "base", "--yes", "--json") == 0
    assert json.loads(capsys.readouterr().out)["verdict"] == "missing"
    assert run("migrate", "down", "base", "--yes") == 4
    assert "create them with: dispatcher migrate up\n" in capsys.readouterr().err


def test_down_asks_and_takes_no_for_an_answer(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    assert run("migrate", "down", "base", "--database-url", database_url) == 1
    migrate.check_schema_version(database_url)


def test_sql_needs_no_server_and_can_be_applied(empty_database_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("migrate", "sql", "--schema", "house") == 0
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        connection.execute(capsys.readouterr().out)
    migrate.check_schema_version(empty_database_url, "house")


def test_sql_down_needs_both_ends(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("migrate", "sql", "--down") == 2
    assert "for example: dispatcher migrate sql base --from 0001 --down" in capsys.readouterr().err


def test_no_database_and_no_server(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("migrate", "up") == 2
    assert "DISPATCHER_DATABASE_URL" in capsys.readouterr().err
    assert run("migrate", "up", "--database-url", "postgresql://u:hunter2@127.0.0.1:1/x") == 5
    assert "PostgreSQL cannot be reached" in capsys.readouterr().err
    assert run("migrate", "up", "--database-url", "postgresql//u:hunter2@h") == 2
    assert "hunter2" not in capsys.readouterr().err


def test_unknown_revision(database_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("migrate", "up", "0042", "--database-url", database_url) == 2
    assert "no way to revision '0042'" in capsys.readouterr().err
