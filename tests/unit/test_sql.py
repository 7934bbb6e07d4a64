"""One SQL text, rendered for each driver; data never gets into the text, casts and strings are left alone."""

from __future__ import annotations

import importlib
import pkgutil
import re

import pytest

import state
from state.sql import DEFAULT_SCHEMA, Sql, check_schema
from state.tables import metadata_for

QUERY = Sql("SELECT 1 FROM {s}.tasks WHERE id = CAST(:id AS uuid) AND (note LIKE '5%' OR id = :id) AND n = :other")


def test_psycopg_gets_named_binary_parameters() -> None:
    assert QUERY.psycopg("house") == (
        "SELECT 1 FROM house.tasks WHERE id = CAST(%(id)b AS uuid) AND (note LIKE '5%%' OR id = %(id)b)"
        " AND n = %(other)b"
    )


def test_sqlalchemy_gets_names_as_written() -> None:
    assert QUERY.sqlalchemy("house") == QUERY.text.replace("{s}", "house")


def test_numbered_drivers_get_one_number_per_name() -> None:
    text, names = QUERY.numbered("house")
    assert names == ("id", "other")
    assert re.findall(r"\$\d", text) == ["$1", "$1", "$2"]
    assert "'5%'" in text


def test_format_drivers_get_one_mark_per_use() -> None:
    text, names = QUERY.formatted("house")
    assert names == ("id", "id", "other")
    assert text.count("%s") == 3
    assert "'5%%'" in text


@pytest.mark.parametrize("left_alone", ["now()::text", "x := 5", "a[1:2]", "'12:30'"])
def test_other_colons_are_no_parameters(left_alone: str) -> None:
    assert Sql(left_alone).numbered() == (left_alone, ())


def test_the_schema_has_a_default_and_is_checked() -> None:
    assert Sql("TABLE {s}.tasks").psycopg() == f"TABLE {DEFAULT_SCHEMA}.tasks"
    for render in (QUERY.psycopg, QUERY.sqlalchemy, QUERY.numbered, QUERY.formatted):
        with pytest.raises(ValueError, match="not a legal name"):
            render("x; DROP TABLE tasks")


@pytest.mark.parametrize("name", ["a", "_a1", "a" * 48])
def test_legal_schema_names(name: str) -> None:
    assert check_schema(name) == name


@pytest.mark.parametrize("name", ["", "1a", "A", "a-b", "a.b", 'a"b', "a\n", "é", "a" * 49])
def test_illegal_schema_names(name: str) -> None:
    with pytest.raises(ValueError, match="lower-case letters"):
        check_schema(name)


def _statements() -> dict[str, Sql]:
    found: dict[str, Sql] = {}
    for module in pkgutil.iter_modules(state.__path__):
        if not module.ispkg:
            loaded = importlib.import_module(f"state.{module.name}")
            found |= {f"{module.name}.{n}": v for n, v in vars(loaded).items() if isinstance(v, Sql)}
    return found


def test_every_statement_of_the_package_names_its_schema_and_renders() -> None:
    statements = _statements()
    assert len(statements) > 20
    tables = "|".join(table.name for table in metadata_for().tables.values())
    unqualified = re.compile(rf"\b(FROM|JOIN|INTO|UPDATE|ONLY|USING|TABLE)\s+({tables})\b")
    for name, statement in statements.items():
        assert not unqualified.search(statement.text), name
        assert "::" not in statement.text, f"{name}: write CAST, SQLAlchemy takes :: for a parameter"
        for text in (statement.psycopg("house"), statement.sqlalchemy("house"), statement.numbered("house")[0]):
            assert "{s}" not in text, name
