"""What a person sees while it runs: one live line on a terminal, plain lines elsewhere; all on standard error."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

__all__ = ["Show"]

_PLAIN_SECONDS = 2.0


class Show:
    """A context manager; ``say`` for what happened, ``progress`` for how far it is."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._start = time.monotonic()
        self._last = 0.0
        self._live: Any = None
        self._bar: Any = None
        if sys.stderr.isatty():
            self._make_bar()

    def _make_bar(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self._live = Progress(
            BarColumn(bar_width=24), TextColumn("{task.completed}/{task.total}"),
            TextColumn("{task.fields[more]}", style="dim"), TimeElapsedColumn(),
            console=Console(stderr=True), transient=True,
        )  # fmt: skip

    def __enter__(self) -> Show:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()

    def say(self, text: str, mark: str = "·") -> None:
        """One line that stays."""
        line = f"{time.monotonic() - self._start:6.1f} s  {mark} {text}"
        if self._live is not None:
            style = {"✗": "bold red", "✓": "green"}.get(mark, "")
            self._print(line, style)
        else:
            print(line, file=sys.stderr, flush=True)

    def _print(self, line: str, style: str) -> None:
        from rich.text import Text

        # a style for the call would colour the bar below it too
        self._live.console.print(Text(line, style=style), soft_wrap=True)

    def progress(self, done: int, more: str) -> None:
        """How many tasks are done; called as often as one likes."""
        if self._live is not None:
            if self._bar is None:
                self._bar = self._live.add_task("", total=self._total, more=more)
            self._live.update(self._bar, completed=done, more=more)
        elif time.monotonic() - self._last > _PLAIN_SECONDS:
            self._last = time.monotonic()
            self.say(f"{done} of {self._total} tasks done, {more}")
