"""Durations and sizes as people write them: ``"30s"``, ``"1h30m"``, ``"10GB"``.  Pure."""

from __future__ import annotations

import re
from datetime import timedelta

__all__ = [
    "FOREVER",
    "UNLIMITED",
    "format_duration",
    "format_size",
    "nanoseconds",
    "parse_duration",
    "parse_keep",
    "parse_size",
]

UNLIMITED = -1
"""What JetStream calls no limit."""
FOREVER = timedelta.max
"""How long something is kept that is never removed."""

_MICROSECONDS = {"us": 1, "ms": 1_000, "s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000, "d": 86_400_000_000}
_PART = re.compile(r"(\d+(?:\.\d+)?)(us|ms|s|m|h|d)")
_SIZE = re.compile(r"(\d+)\s*(?:([KMGT])(i?B)?|B)?", re.IGNORECASE)


def parse_duration(value: object) -> timedelta:
    """``"30s"``, ``"1h30m"``, ``"500ms"``, ``"7d"``.  A bare number is refused: it could be anything from ns to s."""
    if isinstance(value, timedelta):
        return value
    if not isinstance(value, str):
        shown = value if isinstance(value, int | float) and not isinstance(value, bool) else 30
        raise ValueError(f'write a duration with its unit, in quotes, for example "{shown}s"')
    parts = list(_PART.finditer(value))
    if not parts or "".join(part[0] for part in parts) != value:
        raise ValueError(f'{value!r} is not a duration; write for example "30s", "1h30m", "500ms" or "7d"')
    return timedelta(microseconds=round(sum(float(part[1]) * _MICROSECONDS[part[2]] for part in parts)))


def parse_keep(value: object) -> timedelta:
    """Like :func:`parse_duration`, and ``"forever"``."""
    if value == "forever":
        return FOREVER
    try:
        return parse_duration(value)
    except ValueError:
        raise ValueError(
            f'{value!r} is not a time to keep tasks; write for example "30d", "12h" or "forever"'
        ) from None


def parse_size(value: object) -> int:
    """``"10GB"``, ``"512MB"``, a number of bytes, or ``-1`` for no limit.

    As in nats-server, ``K`` is 1000 and both ``KB`` and ``KiB`` are 1024.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    match = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f'{value!r} is not a size; write for example "10GB", "512MB", a number of bytes, or -1')
    power = " KMGT".index(match[2].upper()) if match[2] else 0
    unit: int = (1024 if match[3] else 1000) ** power
    return int(match[1]) * unit


def nanoseconds(duration: timedelta) -> int:
    """The integer that the JetStream API wants."""
    return (duration // timedelta(microseconds=1)) * 1_000


def format_duration(ns: int) -> str:
    """Nanoseconds of the JetStream API as the shortest exact text: ``1h30m``, ``15s``."""
    if ns <= 0:
        return "0s"
    parts, rest = [], ns // 1_000
    for unit in ("d", "h", "m", "s", "ms", "us"):
        count, rest = divmod(rest, _MICROSECONDS[unit])
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or f"{ns}ns"


def format_size(size: int) -> str:
    """Bytes as the shortest exact text: ``10GB``, ``1500``; ``unlimited`` for no limit."""
    if size < 0:
        return "unlimited"
    for power, unit in ((4, "TB"), (3, "GB"), (2, "MB"), (1, "KB")):
        if size and size % 1024**power == 0:
            return f"{size // 1024**power}{unit}"
    return str(size)
