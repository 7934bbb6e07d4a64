"""How commands speak: results on stdout (for people or as JSON), one clear line on stderr when something is wrong.

A command never shows a traceback unless ``--debug`` or ``DISPATCHER_DEBUG=1`` asks for it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from datetime import date, timedelta
from enum import Enum
from typing import Any, NoReturn

from dispatcher.cli.failures import ERROR, describe

__all__ = ["emit", "emit_line", "fail", "guard", "note", "set_debug", "table", "to_json"]

_debug = False


def set_debug(wanted: bool) -> None:
    """Show tracebacks from now on, or stop showing them."""
    global _debug
    _debug = wanted


def emit(data: Any, json: bool, human: Callable[[], str | None]) -> None:
    """Print one JSON document, or what ``human`` returns (or prints itself)."""
    text = to_json(data, indent=2 if sys.stdout.isatty() else None) if json else human()
    if text is not None:
        print(text, flush=True)


def emit_line(data: Any) -> None:
    """Print one JSON document on one line: for streams of results, so that readers see each at once."""
    print(to_json(data), flush=True)


def note(message: str) -> None:
    """Tell a person something that is not the result; stdout stays clean for programs."""
    print(message, file=sys.stderr, flush=True)


def fail(message: str, code: int = ERROR) -> NoReturn:
    """Say in one line what is wrong and leave with an exit code of ``dispatcher.cli.failures``."""
    print(f"error: {message}", file=sys.stderr, flush=True)
    raise SystemExit(code)


@contextmanager
def guard() -> Iterator[None]:
    """Turn whatever goes wrong inside into one line on stderr and the right exit code."""
    try:
        yield
    except BrokenPipeError:
        # the reader (head, less) left; without this the interpreter complains while it flushes
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except Exception as error:
        if _debug or os.environ.get("DISPATCHER_DEBUG") == "1":
            raise
        failure = describe(error)
        fail(failure.message, failure.code)


def table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A plain table for people: columns as wide as needed, no lines, empty cells as ``-``."""
    cells = [[("-" if cell is None or cell == "" else str(cell)) for cell in row] for row in rows]
    widths = [max(len(line[i]) for line in ([str(h) for h in headers], *cells)) for i in range(len(headers))]
    lines = (headers, *cells)
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def to_json(data: Any, indent: int | None = None) -> str:
    """JSON of anything our commands return: ids and times as text, durations in seconds, bytes as hex."""
    return json.dumps(data, default=_plain, indent=indent, ensure_ascii=False)


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, Enum):
        return value.name.lower()
    if isinstance(value, (set, frozenset, tuple)):
        return sorted(value)
    if isinstance(value, bytes | memoryview):
        return bytes(value).hex()
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    return str(value)
