"""``python -m state.protocol [short|long]``: explore the configurations and print what was counted as JSON."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from state.protocol.checker import check
from state.protocol.setups import LONG, SHORT


def report(which: str) -> dict[str, Any]:
    """States, depth and illegal outcomes, in all and by configuration."""
    rows: dict[str, dict[str, Any]] = {}
    for name, setup in {"short": SHORT, "long": LONG}[which].items():
        began = time.monotonic()
        verdict = check(setup)
        rows[name] = verdict._asdict() | {"seconds": round(time.monotonic() - began, 1)}
    return {
        "states": sum(row["states"] for row in rows.values()),
        "depth": max(row["depth"] for row in rows.values()),
        "illegal": sum(row["found"] is not None for row in rows.values()),
        "configurations": rows,
    }


def main(arguments: list[str]) -> int:
    """Exit code 0: nothing illegal was found; 1: something was; 2: asked wrongly."""
    which = arguments[0] if arguments else "short"
    if which not in ("short", "long"):
        sys.stderr.write(f"unknown selection {which!r}: use short or long\n")
        return 2
    found = report(which)
    sys.stdout.write(json.dumps(found, indent=1) + "\n")
    return 1 if found["illegal"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
