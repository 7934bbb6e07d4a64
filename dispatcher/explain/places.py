"""Where a queued task waits, and what is wrong with the relay, the broker or the workers that should move it.  Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

from dispatcher.explain.answer import Cause, Code
from dispatcher.explain.facts import Facts, Live

__all__ = ["broker_causes", "queued_causes", "relay_causes", "running_causes"]

_GATE_OF_A_PAUSE = 1
_TRANSIT = timedelta(seconds=30)
"""A message older than the first one of its lane by this much is gone: the reconciler's own margin."""


def queued_causes(facts: Facts, row: Mapping[str, Any], live: Live | None) -> Iterator[Cause]:
    """Every cause of a queued task."""
    if row["paused"]:
        yield Cause(
            Code.PAUSED, f"its queue {row['queue']} is paused by {row['paused_by'] or 'somebody unnamed'}",
            row["paused_at"], {"queue": row["queue"], "by": row["paused_by"], "parked": row["gate"] is not None},
            f"dispatcher queues resume {row['queue']}",
        )  # fmt: skip
    if row["gate"] is not None:
        if not row["paused"] or row["gate"] != _GATE_OF_A_PAUSE:
            text = "it is held back and goes on when the leading relay looks at it or a limit lets it pass"
            yield Cause(Code.PARKED, text, facts={"gate": row["gate"]})
            yield from relay_causes(facts, live)
    elif row["outbox_id"] is not None:
        yield from _in_outbox(facts, row, live)
    else:
        yield from _published(facts, row, live)
    yield from broker_causes(live)
    if live is not None and live.error is None:
        yield from _workers(row, live.workers)


def relay_causes(facts: Facts, live: Live | None) -> Iterator[Cause]:
    """Nobody leads, or whoever leads is not heard."""
    if facts.leader is None:
        text = "no relay leads: nothing is carried to the stream, no timer fires, no dead worker is noticed"
        yield Cause(Code.NO_RELAY, text, cure="start one: dispatcher relay")
    elif live is not None and live.beats is False:
        yield Cause(
            Code.RELAY_SILENT, f"the leading relay ({facts.leader['name']}) holds the lock but does not beat on NATS:"
            " it is frozen or cut off from NATS", facts=dict(facts.leader),
            cure="see that it reaches NATS; a second relay takes over from a frozen one within seconds",
        )  # fmt: skip


def broker_causes(live: Live | None) -> Iterator[Cause]:
    """NATS could not be asked from here."""
    if live is not None and live.error is not None:
        yield Cause(
            Code.BROKER_UNREACHABLE, f"NATS cannot be reached from here: {live.error}",
            cure="see that nats-server runs and that --nats-url is right",
        )  # fmt: skip


def running_causes(facts: Facts, row: Mapping[str, Any], live: Live | None) -> Iterator[Cause]:
    """What may be wrong with the worker that runs it."""
    until = row["lease_until"]
    if until is None or until <= row["now"]:
        text = "the lease of its worker has ended; the leading relay gives it to another worker as a new attempt"
        yield Cause(Code.LEASE_EXPIRED, text, since=until, facts={"worker": row["worker"]})
        yield from relay_causes(facts, live)
    yield from broker_causes(live)
    if live is None or live.error is not None:
        return
    mine = next((worker for worker in live.workers if worker.get("boot_id") == row["boot_id"]), None)
    if mine is None:
        known = {"worker": row["worker"], "lease_until": until}
        text = f"worker {row['worker']} does not answer; when its lease ends, others take over"
        yield Cause(Code.WORKER_SILENT, text, facts=known, cure="see whether the process lives and reaches NATS")
    elif (mine.get("holds") or {}).get("place") == "claimed":
        text = f"worker {row['worker']} has claimed it, but all its {mine.get('slots')} slots are taken"
        yield Cause(Code.WAITING_FOR_SLOT, text, facts=_shown(mine))


def _in_outbox(facts: Facts, row: Mapping[str, Any], live: Live | None) -> Iterator[Cause]:
    known = dict(facts.outbox)
    text = f"it waits in the outbox to be published, {known['before']:,} before it"
    yield Cause(Code.IN_OUTBOX, text, row["moved_at"], known)
    yield from relay_causes(facts, live)
    if known["waiting"] >= known["limit"]:
        yield Cause(
            Code.OUTBOX_FULL, f"the outbox has reached its limit of {known['limit']:,} waiting tasks: new tasks are"
            " refused", facts=known, cure="see that a relay runs and reaches NATS, or raise the outbox limit",
        )  # fmt: skip
    yield from _stream(row, live, missing=True)


def _stream(row: Mapping[str, Any], live: Live | None, *, missing: bool) -> Iterator[Cause]:
    if live is None or live.stream is None:
        return
    if not live.stream and missing:
        text = f"stream {row['stream']} does not exist; a worker or the leading relay makes it within seconds"
        yield Cause(Code.STREAM_MISSING, text, facts={"stream": row["stream"]}, cure="dispatcher streams apply")
    for name, option in (("messages", "max_msgs"), ("bytes", "max_bytes")):
        most = live.stream.get(f"max_{name}", -1)
        # the limit in bytes is reached before it is used up: the next message has to fit
        if most > 0 and live.stream[name] >= most - (500 if name == "bytes" else 0):
            yield Cause(
                Code.STREAM_FULL, f"stream {row['stream']} has reached its limit of {most:,} {name}; the relay goes on"
                " when workers have made room", facts=dict(live.stream),
                cure=f"start workers for its queues, or raise {option} in streams.conf",
            )  # fmt: skip


def _published(facts: Facts, row: Mapping[str, Any], live: Live | None) -> Iterator[Cause]:
    holder = _holder(live)
    if holder is not None:
        held = holder["holds"]
        known = _shown(holder) | {"age": held.get("age"), "place": held.get("place")}
        yield Cause(Code.DELIVERED, f"worker {holder['worker']} has received it and is about to claim it", facts=known)
        return
    if facts.published_at is None:
        yield Cause(Code.IN_TRANSIT, "it is on its way between two places at this moment; ask again", row["moved_at"])
        return
    lane = f"{row['queue']}/{row['lane']}"
    if live is not None and live.error is None and _is_lost(facts, live):
        text = f"its message is not on the stream any more; the leading relay sends it again (lane {lane})"
        yield Cause(Code.MESSAGE_LOST, text, facts.published_at, {"lane": lane, "stream": row["stream"]})
        yield from _stream(row, live, missing=True)
        yield from relay_causes(facts, live)
        return
    known = {"lane": lane, "stream": row["stream"], "before": facts.before} | dict((live and live.consumer) or {})
    text = f"it is on the stream, {facts.before:,} of lane {lane} before it"
    yield Cause(Code.ON_STREAM, text, facts.published_at, known)


def _is_lost(facts: Facts, live: Live) -> bool:
    if live.stream == {} or live.lane_empty:
        return True
    assert facts.published_at is not None
    return live.first_message_at is not None and facts.published_at < live.first_message_at - _TRANSIT


def _holder(live: Live | None) -> Mapping[str, Any] | None:
    return next((worker for worker in live.workers if worker.get("holds")), None) if live else None


def _workers(row: Mapping[str, Any], workers: Sequence[Mapping[str, Any]]) -> Iterator[Cause]:
    """Whether any live worker could run it now."""
    serving = [w for w in workers if row["queue"] in (w.get("queues") or ()) and not w.get("draining")]
    able = [worker for worker in serving if row["type"] in (worker.get("types") or ())]
    if not serving:
        known: dict[str, Any] = {"queue": row["queue"], "workers": [worker["worker"] for worker in workers]}
        text = f"no live worker serves queue {row['queue']} ({len(workers)} workers answer)"
        cure = f"start one: dispatcher worker MODULE:APP -q {row['queue']}"
        yield Cause(Code.NO_WORKER_FOR_QUEUE, text, facts=known, cure=cure)
    elif not able:
        known = {"type": row["type"], "workers": [worker["worker"] for worker in serving]}
        text = f"no live worker of queue {row['queue']} knows the task type {row['type']}"
        yield Cause(Code.NO_WORKER_FOR_TYPE, text, facts=known, cure="start a worker with the code of that type")
    elif all(worker.get("executing", 0) >= worker.get("slots", 0) for worker in able):
        text = f"every slot of the {len(able)} workers that could run it is taken"
        known = {"workers": [_shown(worker) for worker in able]}
        yield Cause(Code.WORKERS_BUSY, text, facts=known, cure="start more workers, or give them more slots with -c")


def _shown(worker: Mapping[str, Any]) -> dict[str, Any]:
    return {name: worker.get(name) for name in ("worker", "boot_id", "host", "pid", "executing", "slots")}
