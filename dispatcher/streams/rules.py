"""Fields of the JetStream API that the protocol fixes: what they must be, and why.  Pure.

A file may state such a field, with the fixed value only; any other value is refused with the reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["FIXED_QUEUE_FIELDS", "FIXED_STREAM_FIELDS", "FixedField", "refused"]


@dataclass(frozen=True)
class FixedField:
    """A field whose value is not the file's to choose."""

    allowed: tuple[Any, ...]
    """The values that may be written; none: leave the field out."""
    reason: str


_SUBJECTS = "subjects follow from the namespace and the names of stream, queue and lane"
_LOSS = "the server would delete messages of tasks that still wait; set expiry on the task, or bound the stream by size"
_RETRIES = "tries are counted in PostgreSQL; after max_deliver a message would stay in the stream, invisible, for ever"

FIXED_STREAM_FIELDS: Mapping[str, FixedField] = {
    "name": FixedField((), "the name on the server follows from the namespace and the table's name"),
    "subjects": FixedField((), _SUBJECTS),
    "subject_transform": FixedField((), _SUBJECTS),
    "retention": FixedField(("workqueue",), "a task message must go away when it is acked, and only then"),
    "discard": FixedField(("new",), "a full stream must refuse new messages, which then wait in the outbox"),
    "discard_new_per_subject": FixedField((False,), "messages are bounded by stream, not by lane"),
    "max_age": FixedField((0, "0", "0s"), _LOSS),
    "max_msgs_per_subject": FixedField((-1,), _LOSS),
    "allow_msg_ttl": FixedField((False,), _LOSS),
    "allow_rollup_hdrs": FixedField((False,), _LOSS),
    "no_ack": FixedField((False,), "the relay deletes an outbox row only when the server confirmed its message"),
    "sealed": FixedField((False,), "a sealed stream takes no messages"),
    "deny_delete": FixedField((False,), "the reconciler and people must be able to remove messages"),
    "deny_purge": FixedField((False,), "the reconciler and people must be able to remove messages"),
    "mirror": FixedField((), "a task message must exist once"),
    "sources": FixedField((), "a task message must exist once"),
    "max_msg_size": FixedField((-1,), "messages are references of a few dozen bytes"),
}

FIXED_QUEUE_FIELDS: Mapping[str, FixedField] = {
    "name": FixedField((), "the consumer's name follows from queue and lane"),
    "durable_name": FixedField((), "the consumer's name follows from queue and lane"),
    "deliver_subject": FixedField((), _SUBJECTS),
    "filter_subject": FixedField((), _SUBJECTS),
    "filter_subjects": FixedField((), _SUBJECTS),
    "deliver_group": FixedField(("workers",), "all workers share one deliver group"),
    "ack_policy": FixedField(("explicit",), "each message is acked after its task's outcome was committed"),
    "deliver_policy": FixedField(("all",), "a work queue delivers everything it holds"),
    "replay_policy": FixedField(("instant",), "waiting is the business of timers in PostgreSQL"),
    "max_deliver": FixedField((-1,), _RETRIES),
    "backoff": FixedField(((), []), "it replaces ack_wait; back-off belongs to the task type's retry policy"),
    "idle_heartbeat": FixedField((0, "0", "0s"), "with a deliver group each heartbeat reaches one random member only"),
    "flow_control": FixedField((False,), "with a deliver group delivery stalls; max_ack_pending does this work"),
    "headers_only": FixedField((False,), "the task's reference is in the body"),
    "inactive_threshold": FixedField((0, "0", "0s"), "the server would delete the consumer while no worker runs"),
    "mem_storage": FixedField((False,), "the consumer's state must survive a restart of the server"),
    "rate_limit_bps": FixedField((0,), "it would hold back all workers alike"),
    "max_retries": FixedField((), _RETRIES),
}


def refused(table: Mapping[str, Any], fixed: Mapping[str, FixedField]) -> Iterator[tuple[str, str]]:
    """The fields of ``table`` that state something else than what is fixed: name and message."""
    for name in table.keys() & fixed.keys():
        rule, value = fixed[name], table[name]
        if any(type(value) is type(allowed) and value == allowed for allowed in rule.allowed):
            continue
        only = " or ".join(_shown(allowed) for allowed in rule.allowed[:1])
        yield name, f"{f'only {only} is possible' if only else 'cannot be set'}: {rule.reason}"


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else "[]" if value == () else str(value)
