"""Faults for work whose commits matter: a SIGKILL each time, often just after sessions ended or an answer got lost."""

from __future__ import annotations

from dispatcher.drill.faults_database import terminate_sessions
from dispatcher.drill.faults_process import kill_relay, kill_worker
from dispatcher.drill.ground import Fault, Ground, Struck

__all__ = ["kill_someone"]

_SWALLOW_SECONDS = 0.5
_ENDED, _LOST = 0.15, 0.3


def kill_someone(session: str, request: bytes) -> Fault:
    """SIGKILL to a worker, or sometimes to a relay.

    Before some of them sessions end, or an answer gets lost: to a request that contains this, on a session whose name
    begins so.
    """

    def fault(ground: Ground) -> Struck | None:
        dice, detail = ground.dice.random(), {}
        if dice < _ENDED and (ended := terminate_sessions(ground)) is not None:
            detail = {"before": f"{ended.target} ended"}
        elif _ENDED <= dice < _LOST and (lost := _lost_answer(ground, session, request)):
            detail = {"before": f"an answer to {lost} was lost"}
        struck = (kill_relay if ground.dice.random() < 0.25 else kill_worker)(ground)
        return struck and Struck(struck.fault, struck.target, {**struck.detail, **detail})

    return fault


def _lost_answer(ground: Ground, session: str, request: bytes) -> str | None:
    """Whose it was; ``None`` when there was no such request within half a second."""
    proxy = ground.place.database_proxy
    before = len(proxy.swallowed)
    proxy.swallow(session, request)
    ground.until(lambda: len(proxy.swallowed) > before, _SWALLOW_SECONDS)
    proxy.heal()
    return proxy.swallowed[-1] if len(proxy.swallowed) > before else None
