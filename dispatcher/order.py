"""One call as plain data: what ``enqueue`` writes.  ``Call`` adds the types."""

from __future__ import annotations

from dispatcher.asked import Asked
from dispatcher.installation import Installation
from dispatcher.payload import Payload

__all__ = ["HiddenBytes", "Order"]


class HiddenBytes(bytes):
    """Bytes that do not show in logs and error messages, where libraries like to print parameters."""

    def __repr__(self) -> str:
        return f"<{len(self)} bytes>"


class Order:
    """A bound, validated, encoded call with its options.  Nothing is stored yet."""

    __slots__ = ("args", "asked", "home", "name", "payload")

    def __init__(self, home: Installation, name: str, payload: Payload, args: bytes, asked: Asked) -> None:
        self.home = home
        self.name = name
        self.payload = payload
        self.args = HiddenBytes(args) if payload.secret_names else args
        self.asked = asked
