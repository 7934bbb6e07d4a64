"""What one call asks of the dispatcher, ready to be stored: the merged options of type and call.  Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from dispatcher.errors import OptionError
from dispatcher.options import check_times
from dispatcher.retry import Retry
from state.machine import Flag

__all__ = ["DEFAULT_LANE", "DEFAULT_QUEUE", "Asked", "merge"]

DEFAULT_QUEUE = "default"
DEFAULT_LANE = "default"
_NO_RETRY_GIVEN = Retry()


class Asked:
    """The columns of a task that options decide; times in seconds, ``meta`` as JSON text."""

    __slots__ = (
        "deadline",
        "delay",
        "expires",
        "flags",
        "key",
        "key_ttl",
        "lane",
        "max_tries",
        "meta",
        "plain",
        "queue",
        "run_at",
    )

    def __init__(
        self,
        defaults: Mapping[str, Any],
        overrides: Mapping[str, Any],
        secret: tuple[str, ...] = (),
        secret_result: bool = False,
    ) -> None:
        options = {**defaults, **overrides} if overrides else defaults
        find = options.get
        self.queue: str = find("queue") or DEFAULT_QUEUE
        self.lane: str = find("lane") or DEFAULT_LANE
        self.max_tries = tries_of(defaults, overrides)
        self.run_at: datetime | None = find("run_at")
        self.delay: float | None = find("delay")
        if self.run_at is not None and self.delay is not None:  # one from the type, one from the call, which wins
            self.run_at, self.delay = overrides.get("run_at"), overrides.get("delay")
        self.deadline: float | None = find("deadline")
        self.expires: float | None = find("expires")
        if self.deadline is not None or find("soft_timeout") is not None:
            check_times(merge(defaults, overrides))
        self.key: str | None = find("key")
        self.key_ttl: float | None = find("key_ttl")
        meta = _meta(options, overrides, secret)
        self.meta = json.dumps(meta, separators=(",", ":")) if meta else None
        flags = 0
        if self.key is not None:
            flags |= Flag.KEYED.value | Flag.LABELLED.value
        if "tags" in meta:
            flags |= Flag.LABELLED.value
        if secret_result:
            flags |= Flag.SECRET_RESULT.value
        self.flags = flags
        self.plain = (
            self.meta is None
            and self.key is None
            and self.run_at is None
            and self.delay is None
            and self.expires is None
        )
        """Whether nothing optional is asked for: the short statement will do."""

    def expires_in(self) -> float | None:
        """Seconds after its due time when an unstarted task expires: by ``expires`` or ``deadline``, the earlier one.

        The deadline counts from now.  With ``run_at`` that is this machine's clock, as ``run_at`` itself.
        """
        if self.deadline is None:
            return self.expires
        due_in = self.delay or 0.0
        if self.run_at is not None:
            due_in = max(0.0, (self.run_at - datetime.now(UTC)).total_seconds())
            if due_in >= self.deadline:
                raise OptionError(f"deadline must be later than run_at, not {self.deadline:g} s from now")
        left = self.deadline - due_in
        return left if self.expires is None else min(left, self.expires)


def tries_of(defaults: Mapping[str, Any], overrides: Mapping[str, Any]) -> int:
    """How many tries: max_attempts before retry, the call before the type."""
    for options in (overrides, defaults):
        if options.get("max_attempts") is not None:
            return int(options["max_attempts"])
        if options.get("retry") is not None:
            return int(options["retry"].max_attempts)
    return _NO_RETRY_GIVEN.max_attempts


def merge(earlier: Mapping[str, Any], later: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a call with more options given later; of delay and run_at the later one holds."""
    merged = {**earlier, **later}
    if later.get("delay") is not None:
        merged.pop("run_at", None)
    if later.get("run_at") is not None:
        merged.pop("delay", None)
    return merged


def _meta(options: Mapping[str, Any], overrides: Mapping[str, Any], secret: tuple[str, ...]) -> dict[str, Any]:
    """The ``meta`` column; timeout and retry only where the call differs, the type's own are the worker's to know."""
    meta: dict[str, Any] = {}
    if options.get("tags"):
        meta["tags"] = list(options["tags"])
    if options.get("headers"):
        meta["headers"] = options["headers"]
    for name in ("timeout", "soft_timeout"):
        if overrides.get(name) is not None:
            meta[name] = overrides[name]
    if options.get("deadline") is not None:
        meta["deadline"] = options["deadline"]
    if overrides.get("retry") is not None:
        meta["retry"] = overrides["retry"].to_meta()
    if secret:
        meta["secret"] = list(secret)
    return meta
