"""Keeps what handlers log: a handler of the root logger finds the running attempt by its context variable.

So it works the same on the event loop, in threads and in child processes, and costs a task that logs nothing nothing.
Secrets are masked before anything is cut off, so that no half of one is left.
"""

from __future__ import annotations

import json
import logging
import threading
from collections import deque
from collections.abc import Sequence

from dispatcher.context import current
from workers.masked import storable

__all__ = ["LogLines", "capture", "line_of"]

_LONGEST_MESSAGE = 4000
_formatter = logging.Formatter()


def line_of(record: logging.LogRecord, secrets: Sequence[str], longest: int = _LONGEST_MESSAGE) -> str:
    """One record as JSON: seconds since 1970, level, logger, message with traceback."""
    message = record.getMessage()
    if record.exc_info and record.exc_info[0] is not None:
        message += "\n" + _formatter.formatException(record.exc_info)
    message = storable(message, secrets)
    if len(message) > longest:
        message = message[:longest] + "…"
    line = [round(record.created, 3), record.levelname.lower(), storable(record.name, secrets)[:200], message]
    return json.dumps(line, ensure_ascii=False)


class LogLines:
    """The last lines of one attempt, at most ``most`` of them and ``most_bytes`` in all.  Any thread."""

    def __init__(self, most: int, most_bytes: int, secrets: Sequence[str]) -> None:
        self._most, self._most_bytes, self._secrets = most, most_bytes, secrets
        self._lines: deque[tuple[str, int]] = deque()
        self._bytes = 0
        self._dropped = 0
        self._lock = threading.Lock()

    def add_record(self, record: logging.LogRecord) -> None:
        """Keep a record."""
        self.add(line_of(record, self._secrets, min(_LONGEST_MESSAGE, self._most_bytes // 8)))

    def add(self, line: str) -> None:
        """Keep a line, as made by :func:`line_of`; older ones go when there is no room."""
        size = len(line.encode())
        with self._lock:
            self._lines.append((line, size))
            self._bytes += size
            while len(self._lines) > self._most or self._bytes > self._most_bytes:
                self._bytes -= self._lines.popleft()[1]
                self._dropped += 1

    def packed(self) -> tuple[int, str]:
        """How many lines were dropped, and the others as a JSON array."""
        with self._lock:
            return self._dropped, f"[{','.join(line for line, _ in self._lines)}]"


class Capture(logging.Handler):
    """Stands at the root logger of the process while at least one worker wants it."""

    def __init__(self) -> None:
        super().__init__()
        self._users = 0
        self._inside = False

    def start(self) -> None:
        """Begin to listen."""
        self._users += 1
        root = logging.getLogger()
        if self not in root.handlers:
            root.addHandler(self)

    def stop(self) -> None:
        """Listen no more once every worker of this process has said so."""
        self._users -= 1
        if self._users == 0:
            logging.getLogger().removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Give the record to the attempt in whose context it was made."""
        running = current.get(None)
        if running is None or self._inside:  # validators and texts that log while we find out what to mask
            return
        self._inside = True  # only one thread at a time is here: logging holds the lock
        try:
            running.log(record)
        except Exception:  # noqa: BLE001 - a record whose text cannot be made must not hurt the handler
            self.handleError(record)
        finally:
            self._inside = False


capture = Capture()
"""The one of this process."""
