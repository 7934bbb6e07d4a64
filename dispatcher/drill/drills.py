"""Every drill by name: its faults, how much of them, and what is special about its set-up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from dispatcher.drill import faults_broker as broker
from dispatcher.drill import faults_database as database
from dispatcher.drill import faults_process as process
from dispatcher.drill.faults_effect import kill_someone
from dispatcher.drill.faults_poison import die_of_poison
from dispatcher.drill.ground import Fault
from dispatcher.drill.work import EFFECTS, FLOWS, POISON, SINGLE, WIDE, Work

__all__ = ["DRILLS", "Drill"]


@dataclass(frozen=True)
class Drill:
    """One campaign: faults are drawn by weight."""

    text: str
    faults: tuple[tuple[Fault, int], ...]
    tasks: int = 1000
    kills: int = 12
    gap: tuple[float, float] = (0.4, 1.2)
    """Seconds after a fault before new work comes and the next fault follows."""
    default_settings: bool = False
    streams: str = ""
    needs_own_servers: bool = False
    """Whether it ends or damages the servers themselves: not to be done to servers that others may use."""
    rescues_victims_only: bool = True
    """Whether only workers that the drill killed or froze may seem to have died, and an orderly stop costs no try."""
    work: Work = SINGLE
    goes_on: bool = False
    """Whether faults come by themselves, and may after as many as were asked for, until the client is done."""
    in_all: tuple[int, int] | None = None
    """Tasks and faults as a part of ``all``, where these are fewer."""


def _only(fault: Fault) -> tuple[tuple[Fault, int], ...]:
    return ((fault, 1),)


# relays first: while no leader lives long, nobody is rescued
_POINTS = (
    "relay.before_publish", "relay.after_send", "relay.after_puback", "relay.after_commit", "relay.after_rescue",
    "worker.before_claim", "worker.after_claim", "handler.before_effect", "handler.after_effect",
    "worker.before_settle", "worker.after_settle", "worker.after_ack",
)  # fmt: skip
_MIXED: tuple[tuple[Fault, int], ...] = (
    (process.kill_worker, 34), (process.kill_relay, 20), (process.kill_client, 5), (process.freeze_worker, 6),
    (process.freeze_leader, 5), (process.deploy, 5), (process.kill_point(*_POINTS), 6), (broker.kill_broker, 22),
    (broker.wipe_broker, 6), (broker.restore_old_store, 3), (broker.corrupt_broker_file, 4), (broker.broker_outage, 4),
    (broker.freeze_broker, 2), (broker.delete_consumer, 4), (broker.lose_messages, 3),
    (broker.duplicate_delivery, 6), (broker.stale_ack, 6), (database.kill_database, 10),
    (database.terminate_sessions, 12), (database.unknown_commit, 14),
    (database.reset, 8), (database.cut, 4), (database.half_open, 2), (database.slow, 2),
)  # fmt: skip

DRILLS: Mapping[str, Drill] = MappingProxyType(
    {
        "kill-worker": Drill(
            "SIGKILL to workers with tasks in their hands", _only(process.kill_worker), kills=15, gap=(1.0, 3.0)
        ),
        "kill-relay": Drill(
            "SIGKILL to relays, mostly the leader", _only(process.kill_relay), kills=12, gap=(2.0, 3.0)
        ),
        "kill-points": Drill(
            "SIGKILL at each named moment of worker, handler and relay",
            _only(process.kill_point(*_POINTS)),
            kills=len(_POINTS),
            gap=(0.2, 0.6),
            rescues_victims_only=False,
        ),
        "freeze-worker": Drill(
            "SIGSTOP to workers beyond the lease, then SIGCONT", _only(process.freeze_worker), kills=6, gap=(1.0, 3.0)
        ),
        "freeze-leader": Drill(
            "SIGSTOP to the leading relay beyond its replacement, then SIGCONT",
            _only(process.freeze_leader),
            kills=5,
            gap=(1.0, 3.0),
        ),
        "kill-broker": Drill(
            "SIGKILL to nats-server", _only(broker.kill_broker), kills=20, gap=(0.5, 1.5), needs_own_servers=True
        ),
        "freeze-broker": Drill(
            "SIGSTOP to nats-server for longer than a lease",
            _only(broker.freeze_broker),
            kills=3,
            needs_own_servers=True,
        ),
        "wipe-broker": Drill(
            "SIGKILL to nats-server and its store deleted, with default settings",
            _only(broker.wipe_broker),
            tasks=5000,
            kills=8,
            gap=(0.5, 5.0),
            default_settings=True,
        ),
        "restore-old-broker-store": Drill(
            "an old copy of the broker's store comes back",
            _only(broker.restore_old_store),
            kills=5,
            gap=(1.0, 4.0),
            needs_own_servers=True,
        ),
        "corrupt-broker-file": Drill(
            "bits flipped and tails cut in the broker's files",
            _only(broker.corrupt_broker_file),
            kills=8,
            gap=(1.0, 4.0),
            needs_own_servers=True,
        ),
        "fill-broker-disk": Drill(
            "the stream is full and refuses until workers come",
            _only(broker.fill_broker),
            kills=3,
            streams=f"max_msgs = {broker.FULL_AT}\n",
        ),
        "lose-messages": Drill("every waiting message purged", _only(broker.lose_messages), kills=5, gap=(1.0, 4.0)),
        "delete-consumer": Drill(
            "consumers deleted under live workers", _only(broker.delete_consumer), kills=8, gap=(2.0, 4.0)
        ),
        "broker-outage": Drill(
            "seconds without a broker", _only(broker.broker_outage), kills=6, needs_own_servers=True
        ),
        "duplicate-delivery": Drill(
            "copies of messages for tasks in any state", _only(broker.duplicate_delivery), kills=20
        ),
        "stale-ack": Drill(
            "ACK, NAK, TERM and in-progress for the deliveries of others", _only(broker.stale_ack), kills=10
        ),
        "kill-database": Drill(
            "SIGKILL to PostgreSQL",
            _only(database.kill_database),
            kills=8,
            gap=(1.0, 6.0),
            needs_own_servers=True,
            rescues_victims_only=False,
        ),
        "terminate-sessions": Drill(
            "pg_terminate_backend for a good part of all sessions",
            _only(database.terminate_sessions),
            kills=20,
            gap=(0.5, 2.5),
            rescues_victims_only=False,
        ),
        "unknown-commit": Drill(
            "statements carried out whose answer is lost",
            _only(database.unknown_commit),
            kills=16,
            gap=(0.5, 2.0),
            rescues_victims_only=False,
        ),
        "network-cut": Drill(
            "connections cut, half open, slow and reset, by a proxy",
            _only(database.network()),
            kills=8,
            gap=(1.0, 4.0),
            rescues_victims_only=False,
        ),
        "rolling-deploy": Drill("processes replaced in order, one after another", _only(process.deploy), kills=10),
        "effects": Drill(
            "SIGKILL to workers and relays while handlers move money in their own transactions",
            _only(kill_someone("dispatcher handler", b"COMMIT")),
            tasks=5000,
            kills=100,
            gap=(0.5, 1.4),
            rescues_victims_only=False,
            work=EFFECTS,
            in_all=(500, 12),
        ),
        "flows": Drill(
            "SIGKILL to workers and relays while chains, groups and graphs run",
            _only(kill_someone("dispatcher worker settle", b"")),
            tasks=10_000,
            kills=40,
            gap=(0.8, 2.0),
            rescues_victims_only=False,
            work=FLOWS,
            in_all=(1000, 10),
        ),
        "poison": Drill(
            "tasks that end every worker that runs them, amid a steady stream of others",
            _only(die_of_poison),
            tasks=1200,
            kills=6,
            gap=(0.0, 0.0),
            work=POISON,
            goes_on=True,
        ),
        "mixed": Drill(
            "all of it at random",
            _MIXED,
            tasks=2000,
            kills=40,
            gap=(0.0, 0.5),
            needs_own_servers=True,
            rescues_victims_only=False,
            work=WIDE,
        ),
    }
)
"""By name, in the order in which ``all`` runs them."""
