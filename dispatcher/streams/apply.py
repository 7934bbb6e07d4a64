"""Make the server as streams.conf says: idempotent; deletes only when asked, and never a stream with messages."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from dispatcher.errors import BusError
from dispatcher.streams.config import StreamsConfig
from dispatcher.streams.ensure import carry_out, refuse_contradictions
from dispatcher.streams.plan import Change, Lane, plan
from dispatcher.streams.server import CONSUMER_NOT_FOUND, STREAM_NOT_FOUND, JetStreamApi
from dispatcher.subjects import Subjects

__all__ = ["apply"]


async def apply(
    config: StreamsConfig,
    bus: JetStreamApi,
    subjects: Subjects,
    lanes: Iterable[Lane] = (),
    *,
    prune: bool = False,
    recreate: bool = False,
) -> list[Change]:
    """Carry out the plan and return it; with nothing to do nothing is written.

    ``prune`` deletes what we made and the file does not ask for, but no stream that holds messages.  ``recreate``
    deletes and makes anew *consumers* that cannot be changed in place: no message is lost by that, those in flight are
    delivered again.  Streams are never re-created.  Raises ``ConfigurationError`` before the first write when the plan
    holds something forbidden.
    """
    changes = await plan(config, bus, subjects, lanes)
    refuse_contradictions([change for change in changes if not (recreate and change.kind == "consumer")])
    done = []
    for change in changes:
        if change.action == "forbidden":
            await bus.api(f"CONSUMER.DELETE.{change.stream}.{change.name}")
            await carry_out(bus, replace(change, action="create", send=change.wanted))
            done.append(replace(change, note="re-created"))
        elif change.action == "extra" and prune and change.ours:
            done.append(await _prune(bus, change))
        else:
            await carry_out(bus, change)
            done.append(change)
    return done


async def _prune(bus: JetStreamApi, change: Change) -> Change:
    if change.kind == "stream" and change.messages:
        return replace(change, note=f"kept: it still holds {change.messages} messages")
    name = change.name if change.kind == "stream" else f"{change.stream}.{change.name}"
    try:
        await bus.api(f"{change.kind.upper()}.DELETE.{name}")
    except BusError as error:
        if error.err_code not in (STREAM_NOT_FOUND, CONSUMER_NOT_FOUND):
            raise
    return replace(change, note="deleted")
