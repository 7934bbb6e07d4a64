from __future__ import annotations

import json
import logging
import sys
from typing import Any

from workers.capture import LogLines, line_of


def record(message: str, *args: Any, exc_info: Any = None) -> logging.LogRecord:
    return logging.LogRecord("shop", logging.INFO, "shop.py", 1, message, args, exc_info)


def messages(lines: LogLines) -> tuple[int, list[str]]:
    dropped, text = lines.packed()
    return dropped, [line[3] for line in json.loads(text)]


def test_the_last_lines_are_kept_within_both_bounds() -> None:
    lines = LogLines(3, 10_000, [])
    for number in range(5):
        lines.add_record(record("line %d", number))
    assert messages(lines) == (2, ["line 2", "line 3", "line 4"])
    small = LogLines(100, 1024, [])
    for _ in range(50):
        small.add_record(record("ä" * 100))
    dropped, kept = messages(small)
    assert dropped + len(kept) == 50
    assert 2 <= len(kept) and len(small.packed()[1].encode()) <= 1024 + 60


def test_secrets_are_masked_before_anything_is_cut() -> None:
    secret = "s" * 50
    at_the_cut = "x" * 3980 + secret + "rest"
    text = json.loads(line_of(record(at_the_cut), [secret]))[3]
    assert "ss" not in text
    try:
        raise ValueError(secret)
    except ValueError:
        assert secret not in line_of(record("failed", exc_info=sys.exc_info()), [secret])


def test_a_line_is_what_postgresql_can_store() -> None:
    at, level, name, text = json.loads(line_of(record("nul \0 and half \ud800"), []))
    assert (level, name, text) == ("info", "shop", "nul  and half ?")
    assert at > 0
    assert len(json.loads(line_of(record("y" * 10_000), []))[3]) == 4001
