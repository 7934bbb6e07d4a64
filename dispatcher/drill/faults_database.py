"""Faults of the database and of the network: crashes, ended sessions, lost answers, and connections that go bad."""

from __future__ import annotations

import time

from dispatcher.drill.ground import Fault, Ground, Struck
from dispatcher.drill.proxy import Proxy

__all__ = ["cut", "half_open", "kill_database", "network", "reset", "slow", "terminate_sessions", "unknown_commit"]

_TERMINATE = """
SELECT application_name, pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND client_port = ANY (%s)
  AND client_addr = (SELECT client_addr FROM pg_stat_activity WHERE pid = pg_backend_pid()) AND random() < %s
"""
_ROLES = (
    "dispatcher worker claim", "dispatcher worker settle", "dispatcher worker claim", "dispatcher worker settle",
    "dispatcher worker lease", "dispatcher relay", "drill client",
)  # fmt: skip
_SWALLOW_SECONDS = 2.0


def kill_database(ground: Ground) -> Struck | None:
    """SIGKILL to PostgreSQL's first process; it recovers from its log."""
    pid = ground.place.servers.postgres_pid
    ground.place.servers.kill_postgres()
    ground.place.servers.restart_postgres()
    return Struck("kill-database", f"postgres {pid}")


def terminate_sessions(ground: Ground) -> Struck | None:
    """A good part of our processes' sessions ends at once, in whatever statement or transaction they are."""
    ports = ground.place.database_proxy.ports
    ended = [name for name, done in ground.rows(_TERMINATE, ports, ground.dice.uniform(0.2, 0.7)) if done]
    return Struck("terminate-sessions", f"{len(ended)} sessions", {"sessions": sorted(ended)}) if ended else None


def unknown_commit(ground: Ground) -> Struck | None:
    """A statement is carried out and its answer is lost: of a claim, settle, renewal, drain or creation."""
    role = ground.dice.choice(_ROLES)
    proxy = ground.place.database_proxy
    before = len(proxy.swallowed)
    # what a client sends in a transaction of its own counts at its COMMIT; our statements are transactions themselves
    proxy.swallow(role, b"COMMIT" if role == "drill client" else b"")
    done = ground.until(lambda: len(proxy.swallowed) > before, _SWALLOW_SECONDS)
    hit = time.time()
    proxy.heal()
    return Struck("unknown-commit", role, {"session": proxy.swallowed[-1]}, hit=hit) if done else None


def _chosen(ground: Ground) -> tuple[str, Proxy]:
    if ground.dice.random() < 0.5:
        return "PostgreSQL", ground.place.database_proxy
    return "NATS", ground.place.nats_proxy


def reset(ground: Ground) -> Struck | None:
    """Every connection to one of the servers ends with RST."""
    name, proxy = _chosen(ground)
    ended = proxy.reset()
    return Struck("network-cut", name, {"how": "reset", "connections": ended}) if ended else None


def cut(ground: Ground) -> Struck | None:
    """One of the servers cannot be reached for some seconds."""
    return _for_a_while(ground, "cut", ground.dice.uniform(1.0, 3.0))


def half_open(ground: Ground) -> Struck | None:
    """Connections to one of the servers stand but carry nothing, longer than a lease; then they are reset."""
    return _for_a_while(ground, "half-open", ground.place.settings.lease.total_seconds() + 1.0)


def slow(ground: Ground) -> Struck | None:
    """Everything to and from one of the servers takes 20 to 60 ms longer."""
    return _for_a_while(ground, "slow", ground.dice.uniform(2.0, 4.0))


def _for_a_while(ground: Ground, how: str, seconds: float) -> Struck | None:
    name, proxy = _chosen(ground)
    if how == "cut":
        touched = proxy.cut()
    else:
        touched = proxy.half_open() if how == "half-open" else proxy.slow(0.04)
    ground.wait(seconds)
    proxy.heal()
    held = round(seconds, 3)
    return Struck("network-cut", name, {"how": how, "connections": touched}, held=held) if touched else None


def network() -> Fault:
    """The four in turn."""
    kinds = (cut, half_open, slow, reset)

    def fault(ground: Ground) -> Struck | None:
        turn: int = ground.kept.get("network", 0)
        ground.kept["network"] = turn + 1
        return kinds[turn % len(kinds)](ground)

    return fault
