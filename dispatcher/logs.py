"""How our processes log: one line per event on standard error, pretty for people, JSON for machines.

Only the command line calls this; as a library we log through ``logging`` and configure nothing.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

__all__ = ["configure_logging"]


class _Json(logging.Formatter):
    """One JSON object per line."""

    def format(self, record: logging.LogRecord) -> str:
        body = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            body["traceback"] = self.formatException(record.exc_info)
        return json.dumps(body, ensure_ascii=False)


class _Pretty(logging.Formatter):
    """Time, level, logger, message; control characters of foreign text escaped, so that no line can forge another."""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created).strftime("%H:%M:%S.%f")[:-3]
        text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in record.getMessage())
        line = f"{at} {record.levelname.lower():7} {record.name}: {text}"
        return line + ("\n" + self.formatException(record.exc_info) if record.exc_info else "")


def configure_logging(format: str = "auto", level: str = "info") -> None:
    """Send log lines to standard error: ``pretty``, ``json``, or ``auto`` (pretty on a terminal)."""
    handler = logging.StreamHandler(sys.stderr)
    pretty = format == "pretty" or (format == "auto" and sys.stderr.isatty())
    handler.setFormatter(_Pretty() if pretty else _Json())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.getLogger("nats").setLevel(logging.CRITICAL)
