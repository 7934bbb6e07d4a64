"""What README and docs say about settings, commands, states, files and tests is compared with the code."""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Iterator
from datetime import timedelta
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import typer

import dispatcher
from dispatcher.cli.main import COMMANDS, _load
from dispatcher.cli.options import variables_of
from dispatcher.drill.drills import DRILLS
from dispatcher.options import TASK_CHECKS
from dispatcher.settings import Settings
from state.machine import LEGAL_MOVES, Reason

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = [REPOSITORY / "README.md", REPOSITORY / "CHANGELOG.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"(?:^|\$ |&& |; |\(| )dispatcher ([a-z]+)(?: ([a-z]+(?:-[a-z]+)*))?([^`\n)|]*)")
GROUPS = {"export", "tasks", "flows", "queues", "workers", "streams", "migrate", "config", "bench", "drill"}
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def blocks(page: Path, *kinds: str) -> list[str]:
    return [text for kind, text in BLOCK.findall(page.read_text()) if kind in kinds]


def prose(page: Path) -> str:
    return BLOCK.sub("", page.read_text())


def pieces_of_code(page: Path) -> Iterator[str]:
    """What is typed in console blocks, and everything between single backticks."""
    for block in blocks(page, "console"):
        yield from (line for line in block.splitlines() if line.startswith("$ "))
    for span in re.findall(r"`([^`]+)`", prose(page)):
        yield re.sub(r"\s+", " ", span)


@cache
def command_named(name: str) -> Any:
    return _load(name, COMMANDS[name])


def settings_table() -> str:
    """The table of docs/operating.md, made from ``Settings``."""
    source = (REPOSITORY / "dispatcher/settings.py").read_text()
    (body,) = [node.body for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]
    meaning = {
        node.target.id: ast.literal_eval(after.value)
        for node, after in pairwise(body)
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and isinstance(after, ast.Expr)
    }
    rows = ["| variable | default | meaning |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        value = field.default.total_seconds() if isinstance(field.default, timedelta) else field.default
        shown = "–" if value is None else f"`{value:g}`" if isinstance(value, float) else f"`{value}`"
        variables = ", ".join(f"`{variable}`" for variable in variables_of(name))
        rows.append(f"| {variables} | {shown} | {meaning[name].replace('``', '`')} |")
    return "\n".join(rows)


def test_the_settings_table_is_that_of_the_code() -> None:
    text = (REPOSITORY / "docs/operating.md").read_text()
    shown = text.split("<!-- settings -->\n", 1)[1].split("\n<!-- /settings -->", 1)[0]
    assert shown == settings_table(), "docs/operating.md: put the table above between the two marks"


def test_every_variable_that_is_read_is_explained() -> None:
    text = (REPOSITORY / "docs/operating.md").read_text()
    read: set[str] = set()
    for file in (REPOSITORY / "dispatcher").rglob("*.py"):
        if file.parent.name not in ("bench", "demo", "drill"):  # those speak to processes of their own
            read.update(re.findall(r"\bDISPATCHER_[A-Z_]*[A-Z]\b", file.read_text()))
    assert not {name for name in read if f"`{name}" not in text}


@each_page
def test_every_command_that_is_named_exists(page: Path) -> None:
    for piece in pieces_of_code(page):
        if re.search(r"\b(from|import|pip)\b", piece):
            continue
        for name, second, rest in COMMAND.findall(piece):
            assert name in COMMANDS, f"{page.name}: {piece}"
            command = command_named(name)
            if name in GROUPS and second:
                assert second in command.commands, f"{page.name}: {piece}"
            if second in getattr(command, "commands", ()):
                command = command.commands[second]
            known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
            for option in re.findall(r"(?<!\S)--[a-z][a-z-]*", f"{second} {rest}"):
                assert option in known, f"{page.name}: {piece}: no option {option}"


def test_the_readme_names_every_command() -> None:
    overview = (REPOSITORY / "README.md").read_text().split("\n## Command line\n")[1].split("\n## ")[0]
    for name in COMMANDS:
        assert f"`dispatcher {name}" in overview, name
        command = command_named(name)
        for second in getattr(command, "commands", ()):
            assert re.search(rf"`(dispatcher {name} )?{second}\b", overview), f"{name} {second}"


def test_groups_are_those_of_the_code() -> None:
    found = {name for name, place in COMMANDS.items() if place.attribute == "app"}
    assert found - {"demo"} == GROUPS, "demo runs without a second word too"
    assert all(isinstance(command_named(name), typer.core.TyperGroup) for name in found)


@each_page
def test_every_link_leads_to_a_file(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if not target.startswith(("http://", "https://")):
            file, _, heading = target.partition("#")
            place = (page.parent / file).resolve() if file else page
            assert place.exists(), f"{page.name}: {target}"
            if heading:
                found = re.findall(r"^#+ (.+)$", place.read_text(), re.MULTILINE)
                assert heading in [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in found], target


@each_page
def test_every_test_that_is_named_exists(page: Path) -> None:
    defined: set[str] = set()
    files: set[str] = set()
    for file in (REPOSITORY / "tests").rglob("test_*.py"):
        files.add(file.stem)
        defined.update(re.findall(r"^(?:async )?def (test_\w+)", file.read_text(), re.MULTILINE))
    missing = set(re.findall(r"\btest_[a-z0-9_]+", page.read_text())) - defined - files
    assert not missing


@each_page
def test_python_shown_is_python_and_uses_names_that_exist(page: Path) -> None:
    for code in blocks(page, "python"):
        for node in ast.walk(ast.parse(textwrap.dedent(code))):
            if isinstance(node, ast.ImportFrom) and node.module == "dispatcher":
                assert {alias.name for alias in node.names} <= set(dispatcher.__all__), code


def test_the_states_are_those_of_the_machine() -> None:
    (diagram,) = [
        block for block in blocks(REPOSITORY / "docs/architecture.md", "mermaid") if block.startswith("stateDiagram")
    ]
    shown = set(re.findall(r"^ +(\S+) --> (\S+)$", diagram, re.MULTILINE))
    assert shown == {("[*]" if before is None else before.label, after.label) for before, after in LEGAL_MOVES}
    reasons = (REPOSITORY / "docs/architecture.md").read_text()
    assert not [reason.label for reason in Reason if f"`{reason.label}`" not in reasons]


def test_every_option_is_explained() -> None:
    text = (REPOSITORY / "docs/publishing.md").read_text().split("\n## Options\n")[1].split("\n## ")[0]
    assert not [name for name in TASK_CHECKS if f"`{name}`" not in text]


def test_figures_are_those_of_the_results() -> None:
    shown = (REPOSITORY / "README.md").read_text().split("<!-- figures")[1].split("<!-- /figures")[0]
    measured = re.findall(r"\d[\d,.]*\d", (REPOSITORY / "benchmarks/RESULTS.md").read_text())
    assert not [figure for figure in re.findall(r"\d[\d,.]*\d", shown) if figure not in measured]


def test_every_row_of_what_happens_when_names_its_test_and_its_drill() -> None:
    table = (REPOSITORY / "README.md").read_text().split("\n## What happens when …\n")[1].split("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| ")][1:]
    assert len(rows) >= 18
    invariants = set(
        re.findall(r"^\| ([A-Z]\d+) \|", (REPOSITORY / "docs/fault-campaign.md").read_text(), re.MULTILINE)
    )
    for what, _, proof in rows:
        tests, _, drills = proof.partition("; ")
        assert "`test_" in tests, what
        named = re.findall(r"`([a-z-]+)`", drills)
        everywhere = re.search(r"every (?:ordinary )?drill \(([^)]+)\)", drills)
        assert named or everywhere, what
        assert set(named) <= set(DRILLS), what
        assert everywhere is None or set(everywhere[1].split(", ")) <= invariants, what


def test_the_readme_is_short() -> None:
    assert len((REPOSITORY / "README.md").read_text().splitlines()) <= 290
