"""What people may see of arguments and results: secrets become asterisks, unreadable bytes a description.  Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from typing import Any

__all__ = ["MASK", "printable", "shown_args", "shown_result"]

MASK = "**********"
_JSON = 1
"""The codec number of plain JSON; any other codec is not for people."""
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def shown_args(args: bytes | None, secret: Collection[str], codec: int = _JSON, key_id: int | None = None) -> Any:
    """The arguments as JSON data, with every parameter named in ``secret`` masked as a whole.

    Anything whose parameters cannot be told apart is masked completely as soon as one of them is secret.
    """
    if args is None:
        return None
    if key_id is not None or codec != _JSON:
        return MASK
    try:
        data = json.loads(args)
    except (ValueError, RecursionError):
        return MASK if secret else f"<{len(args)} unreadable bytes>"
    if not secret:
        return data
    if isinstance(data, dict):
        return _masked(data, secret)
    return MASK


def _masked(data: dict[str, Any], secret: Collection[str]) -> dict[str, Any]:
    """``secret`` may name a parameter (``card``) or something inside it (``card.number``): both hide the parameter."""
    hidden = {name.split(".", 1)[0] for name in secret}
    return {name: MASK if name in hidden else value for name, value in data.items()}


def shown_result(result: bytes | None, secret: bool, codec: int = _JSON, key_id: int | None = None) -> Any:
    """The result as JSON data; masked when the task type says that its result is secret."""
    if result is None:
        return None
    if secret or key_id is not None or codec != _JSON:
        return MASK
    try:
        return json.loads(result)
    except (ValueError, RecursionError):
        return f"<{len(result)} unreadable bytes>"


def printable(text: object) -> str:
    r"""``text`` for a terminal: control characters, also those that turn text around, become ``\x1b`` and the like.

    Tabs and line ends stay.
    """
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), str(text))
