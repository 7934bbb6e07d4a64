"""The line of every key of a TOML text, found without a parser that tells positions."""

from __future__ import annotations

import tomllib
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from dispatcher.streams.lines import find_line, key_lines

TEXT = '''# [not.a.table]
version = 1
text = """
key = 1   # inside a string
[also.not]
"""
[streams."A.B"]   # dots in quotes
placement.tags = [
  "a,]", # comment ]
  'b' ]
storage = 'fi#le'
[queues]
billing = { stream = "T", lanes = { high = 1, "lo w" = 2 } }
[[rules]]
x = 1979-05-27T07:32:00Z
[[rules]]
x = [[1, 2], [3]]
"esc\\u0041" = true
'''


def test_keys_are_found_in_tables_strings_arrays_and_inline_tables() -> None:
    tomllib.loads(TEXT)
    lines = key_lines(TEXT)
    assert lines[("version",)] == 2
    assert ("key",) not in lines and ("also", "not") not in lines
    assert lines[("streams", "A.B")] == lines[("streams",)] == 7
    assert lines[("streams", "A.B", "placement", "tags")] == 8
    assert lines[("streams", "A.B", "placement", "tags", "1")] == 10
    assert lines[("streams", "A.B", "storage")] == 11
    assert lines[("queues", "billing", "lanes", "lo w")] == 13
    assert lines[("rules", "0", "x")] == 15
    assert lines[("rules", "1", "x", "1", "0")] == 17
    assert lines[("rules", "1", "escA")] == 18


def test_a_path_without_a_line_of_its_own_has_that_of_its_table() -> None:
    lines = key_lines("a = 1\n[t.u]\nb = 2")
    assert find_line(lines, ("t", "u", "missing")) == 2
    assert find_line(lines, ("t", "u", "b", 0)) == 3
    assert find_line(lines, ("nowhere",)) == 1


KEYS = st.text('ab-_.# "=[]{}é', min_size=1, max_size=4)
VALUES = st.recursive(
    st.integers() | st.booleans() | st.text("ab'\"#[]{},=\\\n é", max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=6,
)


def quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def written(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, list):
        return "[\n" + ",  # , ]\n".join(map(written, value)) + "\n]"
    return "{" + ", ".join(f"{quoted(key)} = {written(item)}" for key, item in value.items()) + "}"


@given(st.dictionaries(KEYS, st.dictionaries(KEYS, VALUES, max_size=3), max_size=3))
def test_every_key_of_any_file_is_found_on_its_line(data: dict[str, dict[str, Any]]) -> None:
    text = ""
    expected: dict[tuple[str, ...], int] = {}
    for table, content in data.items():
        expected[(table,)] = text.count("\n") + 1
        text += f"[{quoted(table)}] # x = 1\n"
        for key, value in content.items():
            expected[(table, key)] = text.count("\n") + 1
            text += f"{quoted(key)} = {written(value)}\n"
    assert tomllib.loads(text) == data
    lines = key_lines(text)
    assert {path: lines[path] for path in expected} == expected
    assert all(path in lines for path in paths(data, ()))


def paths(value: Any, path: tuple[str, ...]) -> list[tuple[str, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [p for key, item in items for p in ((*path, str(key)), *paths(item, (*path, str(key))))]
