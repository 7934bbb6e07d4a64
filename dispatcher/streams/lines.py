"""Which line of a TOML text holds which key: ``tomllib`` tells no positions of values.  Pure.

The text was already accepted by ``tomllib``, so this reader only has to find the keys, not to judge the text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["KeyPath", "find_line", "key_lines"]

KeyPath = tuple[str, ...]

_SPACE = re.compile(r"[ \t]*")
_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_STRING = re.compile(
    r'"""(?:[^\\]|\\.)*?"{3,5}' r"|'''.*?'{3,5}" r'|"(?:[^"\\\n]|\\.)*"' r"|'[^'\n]*'",
    re.DOTALL,
)
_SCALAR = re.compile(r"[^,\]}#\n]*")
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))")
_ESCAPED = {"b": "\b", "t": "\t", "n": "\n", "f": "\f", "r": "\r", "e": "\x1b"}


def key_lines(text: str) -> dict[KeyPath, int]:
    """Every key and table of the text with the line (from 1) where it first appears; array items count from 0."""
    reader = _Reader(text)
    reader.read()
    return reader.lines


def find_line(lines: dict[KeyPath, int], path: Sequence[str | int]) -> int:
    """The line of ``path``, or of the nearest key above it that the text has; 1 if there is none."""
    key = tuple(str(part) for part in path)
    while key and key not in lines:
        key = key[:-1]
    return lines.get(key, 1)


class _Reader:
    def __init__(self, text: str) -> None:
        self.text = text.replace("\r\n", "\n")
        self.at = 0
        self.lines: dict[KeyPath, int] = {}
        self.items: dict[KeyPath, int] = {}

    def read(self) -> None:
        table: KeyPath = ()
        while self._skip(_BLANK) < len(self.text):
            if self.text[self.at] == "[":
                table = self._header()
            else:
                self._pair(table)

    def _header(self) -> KeyPath:
        start, repeated = self.at, self.text.startswith("[[", self.at)
        self.at += 2 if repeated else 1
        path = self._key()
        self.at += 2 if repeated else 1
        if repeated:
            number = self.items.get(path, -1) + 1
            self.items[path] = number
            self._note(path, start)
            path = (*path, str(number))
        for length in range(1, len(path) + 1):
            self._note(path[:length], start)
        return path

    def _pair(self, table: KeyPath) -> None:
        start = self.at
        path = table + self._key()
        for length in range(len(table) + 1, len(path) + 1):
            self._note(path[:length], start)
        self.at += 1  # the equals sign
        self._value(path)

    def _value(self, path: KeyPath) -> None:
        self._skip(_SPACE)
        opening = self.text[self.at : self.at + 1]
        if opening == "[":
            self._sequence(path, "]")
        elif opening == "{":
            self._sequence(path, "}")
        else:
            self._skip(_STRING if opening in ("'", '"') else _SCALAR)

    def _sequence(self, path: KeyPath, closing: str) -> None:
        self.at += 1
        number = 0
        while self._skip(_BLANK) < len(self.text) and self.text[self.at] != closing:
            if self.text[self.at] == ",":
                self.at += 1
            elif closing == "}":
                self._pair(path)
            else:
                item = (*path, str(number))
                self._note(item, self.at)
                self._value(item)
                number += 1
        self.at += 1

    def _key(self) -> KeyPath:
        parts = []
        while True:
            self._skip(_SPACE)
            start = self.at
            quoted = self.text[start : start + 1] in ("'", '"')
            raw = self.text[start : self._skip(_STRING if quoted else _BARE)]
            parts.append(_unquoted(raw) if quoted else raw)
            self._skip(_SPACE)
            if self.text[self.at : self.at + 1] != ".":
                return tuple(parts)
            self.at += 1

    def _note(self, path: KeyPath, position: int) -> None:
        self.lines.setdefault(path, self.text.count("\n", 0, position) + 1)

    def _skip(self, pattern: re.Pattern[str]) -> int:
        match = pattern.match(self.text, self.at)
        self.at = match.end() if match else self.at
        return self.at


def _unquoted(raw: str) -> str:
    if raw.startswith("'"):
        return raw[1:-1]
    return _ESCAPE.sub(lambda m: chr(int(m[1] or m[2], 16)) if m[1] or m[2] else _ESCAPED.get(m[3], m[3]), raw[1:-1])
