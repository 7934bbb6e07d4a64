"""Whoever adds a table that belongs to tasks must say what becomes of its rows when a task is deleted."""

from __future__ import annotations

from state.delete import NOT_OWNED, OWNED
from state.tables import metadata_for


def test_every_table_with_a_task_id_is_deleted_with_its_task_or_says_why_not() -> None:
    with_task = {table.name for table in metadata_for().tables.values() if "task_id" in table.columns}
    assert with_task == {*OWNED, *NOT_OWNED}


def test_the_rows_of_every_owned_table_are_found_by_an_index() -> None:
    tables = {table.name: table for table in metadata_for().tables.values()}
    for name in OWNED:
        leading = [next(iter(tables[name].primary_key.columns)).name]
        leading += [next(iter(index.columns)).name for index in tables[name].indexes]
        assert "task_id" in leading, name
