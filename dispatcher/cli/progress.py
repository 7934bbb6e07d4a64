"""A progress bar for long commands: on stderr, and only when a person looks at it."""

from __future__ import annotations

import sys
import time
from types import TracebackType

__all__ = ["Progress"]

_WIDTH = 24
_BETWEEN_SECONDS = 0.1


class Progress:
    """``with Progress("retrying", total) as bar: bar.show(done)``.  Silent when stderr is no terminal."""

    def __init__(self, what: str, total: int | None = None) -> None:
        self._what, self._total = what, total
        self._shown_at = 0.0
        self._visible = sys.stderr.isatty()

    def __enter__(self) -> Progress:
        return self

    def show(self, done: int) -> None:
        """Draw, at most ten times a second."""
        now = time.monotonic()
        if not self._visible or now - self._shown_at < _BETWEEN_SECONDS:
            return
        self._shown_at = now
        print(f"\r\x1b[K{self.line(done)}", end="", file=sys.stderr, flush=True)

    def line(self, done: int) -> str:
        """What is drawn: a bar when the total is known, else the number alone."""
        if not self._total:
            return f"{self._what} {done:,}"
        part = min(1.0, done / self._total)
        full = round(part * _WIDTH)
        return f"{self._what} [{'#' * full}{'.' * (_WIDTH - full)}] {done:,} of {self._total:,}  {part:.0%}"

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._shown_at:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
