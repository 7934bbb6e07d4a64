"""What pydantic says about arguments and results, as our errors say it: never with a value in it."""

from __future__ import annotations

from typing import Any

__all__ = ["described", "masked", "no_json"]


def described(error: Any, secret: bool) -> list[dict[str, Any]]:
    """Pydantic's list of problems without values."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    return [masked(problem) if secret else problem for problem in found]


def masked(problem: dict[str, Any]) -> dict[str, Any]:
    """A user's own validator may quote the value in its message, and a key of a mapping is in the location."""
    return {"loc": problem["loc"][:1], "type": problem["type"], "msg": "not valid (secret)"}


def no_json(error: Exception) -> dict[str, Any]:
    """Why something cannot be written as JSON."""
    if isinstance(error, RecursionError):
        return {"loc": (), "type": "recursion", "msg": "it refers to itself or is nested too deeply"}
    text = str(error)
    if "surrogates not allowed" in text:
        return {"loc": (), "type": "unicode", "msg": "it has text with half a surrogate pair, which JSON cannot hold"}
    if "invalid utf-8" in text:
        message = "it has bytes that are not text where no annotation says bytes, or in a model without ser_json_bytes"
        return {"loc": (), "type": "bytes", "msg": message}
    kind = text.split(":", 1)[-1].strip() if "Unable to serialize unknown type" in text else ""
    return {"loc": (), "type": "no_json", "msg": f"it has no JSON form{f': {kind}' if kind else ''}"}
