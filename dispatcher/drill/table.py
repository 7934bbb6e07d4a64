"""The table of a campaign, in Markdown, from what ``dispatcher drill run --json`` printed."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dispatcher.errors import ConfigurationError

__all__ = ["markdown", "put", "read_results"]

_BEGIN, _END = "<!-- table -->\n", "<!-- /table -->"
_HEAD = (
    "| drill | seed | tasks | faults done | rescued | recovery p50, s | p99, s | work p50, s | p99, s | in all, s |",
    "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
)


def read_results(path: Path) -> list[dict[str, Any]]:
    """The verdicts in a file, in order; other lines are passed over.  Raises ``ConfigurationError``."""
    try:
        lines = path.read_text().splitlines()
        found = [json.loads(line) for line in lines if line.startswith('{"ok"')]
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}") from None
    if not found:
        raise ConfigurationError(f"{path} holds no result; make it with: dispatcher drill run all --json > {path}")
    return found


def markdown(results: Iterable[dict[str, Any]]) -> str:
    """When and where, one row for each drill, and what did not hold.  Raises ``ConfigurationError``."""
    found = list(results)
    done = [result for result in found if "error" not in result]
    if not done:
        raise ConfigurationError("not one drill came to its end")
    first = done[0]
    lines = [
        f"{first['date']}, {first['cores']} cores, {first['cpu']}; {first['servers']}; {len(found)} drills,"
        f" {sum(result['seconds'] for result in done) / 60:.0f} minutes. {_summary(found)}",
        "",
        *_HEAD,
    ]
    return "\n".join([*lines, *map(_row, done)]) + "\n"


def put(results: Iterable[dict[str, Any]], page: Path) -> None:
    """Write the table between its marks in ``page``.  Raises ``ConfigurationError`` when it has none."""
    try:
        text = page.read_text()
    except OSError as error:
        raise ConfigurationError(f"{page} cannot be read: {error.strerror}") from None
    before, begin, rest = text.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise ConfigurationError(f"{page} has no lines {_BEGIN.strip()} and {_END} for the table to stand between")
    page.write_text(f"{before}{_BEGIN}{markdown(results)}{_END}{after}")


def _summary(found: list[dict[str, Any]]) -> str:
    wrong = [f"`{result['drill']}` (seed {result['seed']})" for result in found if not result["ok"]]
    if wrong:
        return f"**It does not hold: {', '.join(wrong)}.**"
    return "In every one nothing was lost, nothing completed twice, no move was illegal and nothing stuck."


def _row(result: dict[str, Any]) -> str:
    recovery = result["recovery_s"]
    cells = [
        f"`{result['drill']}`",
        result["seed"],
        f"{result['tasks']:,}",
        result["kills_done"],
        result["rescued"],
        *(_seconds(recovery[name]) for name in ("p50", "p99", "work_p50", "work_p99")),
        f"{result['seconds']:.0f}",
    ]
    return f"| {' | '.join(map(str, cells))} |"


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"
