"""How our processes log: one line per event on standard error, pretty for people, JSON for machines.

Only the command line calls this; as a library we log through ``logging`` and configure nothing.  What a handler logs,
and what we log about an attempt, carries the task's id, its type and queue, the attempt and the worker.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, TextIO
from uuid import UUID

from dispatcher.context import NoContext, context

__all__ = ["attempt_fields", "configure_logging", "line_handler"]

_FIELDS = ("task_id", "type", "queue", "attempt", "worker")


def attempt_fields(task_id: UUID, type: str, attempt: int, queue: str) -> dict[str, Any]:
    """The ``extra`` of a log line that is about an attempt."""
    return {"task_id": str(task_id), "type": type, "queue": queue, "attempt": attempt}


class _Attempt(logging.Filter):
    """Runs where the line is written, so that it finds the attempt whose handler wrote it."""

    def __init__(self, worker: str | None) -> None:
        super().__init__()
        self._worker = worker

    def filter(self, record: logging.LogRecord) -> bool:
        if not hasattr(record, "task_id"):
            try:
                running = context()
            except NoContext:
                pass
            else:
                fields = attempt_fields(running.task_id, running.type, running.attempt, running.queue)
                record.__dict__.update(fields)
        if self._worker is not None:
            record.worker = self._worker
        return True


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name in _FIELDS if (value := getattr(record, name, None)) is not None}


class _Json(logging.Formatter):
    """One JSON object per line."""

    def format(self, record: logging.LogRecord) -> str:
        body = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            body["traceback"] = self.formatException(record.exc_info)
        return json.dumps(body, ensure_ascii=False, default=str)


class _Pretty(logging.Formatter):
    """Time, level, logger, message; control characters of foreign text escaped, so that no line can forge another."""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created).strftime("%H:%M:%S.%f")[:-3]
        fields = _fields(record)
        about = f" [{fields['type']} {fields['task_id']} attempt {fields['attempt']}]" if "task_id" in fields else ""
        text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in record.getMessage())
        line = f"{at} {record.levelname.lower():7} {record.name}:{about} {text}"
        return line + ("\n" + self.formatException(record.exc_info) if record.exc_info else "")


def line_handler(stream: TextIO, format: str, worker: str | None = None) -> logging.Handler:
    """Writes log lines to ``stream``; see :func:`configure_logging`."""
    handler = logging.StreamHandler(stream)
    pretty = format == "pretty" or (format == "auto" and stream.isatty())
    handler.setFormatter(_Pretty() if pretty else _Json())
    handler.addFilter(_Attempt(worker))
    return handler


def configure_logging(format: str = "auto", worker: str | None = None, level: str = "info") -> None:
    """Send log lines to standard error: ``pretty``, ``json``, or ``auto`` (pretty on a terminal).

    ``worker`` is the name that every line of a worker process carries.
    """
    root = logging.getLogger()
    root.handlers[:] = [line_handler(sys.stderr, format, worker)]
    root.setLevel(level.upper())
    logging.getLogger("nats").setLevel(logging.CRITICAL)
