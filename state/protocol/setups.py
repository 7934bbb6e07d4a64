"""The configurations that are explored to their end, and the shorter and longer selections of them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from state.machine import State
from state.protocol.rows import Row
from state.protocol.world import Faults, Setup

__all__ = ["LONG", "LOST_TAIL", "SHORT"]

_TWO = (Row(max_tries=2),)
_ONE = (Row(max_tries=1),)
_CHAIN = (Row(max_tries=2, feeds=(1,)), Row(State.BLOCKED, remaining=1))
_JOIN = (Row(feeds=(2,)), Row(feeds=(2,)), Row(State.BLOCKED, remaining=2))
_REOPENED = frozenset({"an attempt was started twice (I5)"})

SHORT: Mapping[str, Setup] = MappingProxyType(
    {
        "crash, freeze, repeat": Setup(_TWO, Faults(crash=1, freeze=1, repeat=1)),
        "slots of one worker": Setup(_TWO, Faults(repeat=1, give_back=1, lose_reply=1), workers=1),
        "lost answers": Setup(_TWO, Faults(lose_reply=1, fail=1), workers=1),
        "one try": Setup(_ONE, Faults(lose_reply=1, crash=1), reconciler=False),
        "dead session": Setup((Row(max_tries=3),), Faults(freeze=1, crash=1), workers=1, slots=1),
        "rescued from another": Setup(_TWO, Faults(give_back=1, freeze=1), slots=1),
        "people": Setup(_TWO, Faults(cancel=1, retry=1, fail=1), workers=1, reconciler=False),
        "retry and repeat": Setup(_TWO, Faults(cancel=1, retry=1, repeat=1), workers=1, reconciler=False),
        "cancel and crash": Setup(_TWO, Faults(cancel=1, crash=1), workers=1),
        "pause": Setup(_TWO, Faults(pause=1, cancel=1, give_back=1), workers=1),
        "expiry": Setup(_TWO, Faults(expire=1, freeze=1), workers=1),
        "worker without the code": Setup(_TWO, Faults(crash=1), strangers=frozenset({1}), reconciler=False),
        "forged messages": Setup(_TWO, Faults(repeat=1), workers=1, forged=frozenset({(0, 9, 1), (7, 1, 1)})),
        "wipe": Setup(_TWO, Faults(wipe=1, relay_crash=1, crash=1), relays=2),
        "full reconcile alone": Setup(_TWO, Faults(wipe=1, relay_crash=1), workers=1, relays=2, reconciler=False),
        "relays": Setup(_TWO, Faults(relay_crash=1, crash=1), workers=1, relays=2, reconciler=False),
        "hint": Setup(_TWO, Faults(hint=1, relay_crash=1, crash=1), relays=2, reconciler=False),
        "hints and wipe": Setup(_TWO, Faults(hint=2, wipe=1, relay_crash=1), workers=1, reconciler=False),
        "hint and people": Setup(_TWO, Faults(hint=1, cancel=1, pause=1, fail=1), workers=1, slots=1),
        "two tasks": Setup(_ONE * 2, Faults(crash=1), slots=1),
        "flow, crash and repeat": Setup(_CHAIN, Faults(crash=1, repeat=1), slots=1, reconciler=False),
        "flow, failure and people": Setup(
            _CHAIN, Faults(fail=1, cancel=1, retry=1), workers=1, slots=1, reconciler=False
        ),
        "two parents": Setup(_JOIN, Faults(crash=1), slots=1, reconciler=False),
    }
)
"""Seconds; part of the tests."""

LONG: Mapping[str, Setup] = MappingProxyType(
    {
        **SHORT,
        "all of a worker": Setup(_TWO, Faults(crash=1, freeze=1, repeat=1, lose_reply=1, fail=1)),
        "all of the broker": Setup(_TWO, Faults(wipe=2, relay_crash=1, crash=1, repeat=1, hint=1), relays=2),
        "all of a person": Setup(_TWO, Faults(cancel=1, retry=1, pause=1, fail=1, crash=1), slots=1),
        "all of a flow": Setup(_CHAIN, Faults(crash=1, freeze=1, repeat=1, lose_reply=1), slots=1),
        "two tasks, two relays": Setup(_ONE * 2, Faults(crash=1, wipe=1), relays=2, slots=1),
    }
)
"""Minutes."""

LOST_TAIL = Setup(_TWO, Faults(lose_tail=1), dropped=frozenset({"claim.durable"}), waived=_REOPENED)
"""A database that loses its last commit: outside our promise, two guards bound the damage."""
