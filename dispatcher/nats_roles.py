"""Least-privilege users of NATS: what each kind of process may publish and hear, as a part of nats-server's file.

Everything is an allow-list.  Each role has its own prefix for answers, so that none can listen to another's.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from dispatcher.subjects import DELIVER_GROUP, Subjects

__all__ = ["NATS_ROLES", "inbox_prefix", "nats_auth", "password_variable"]

NATS_ROLES = {
    "publisher": "services that wait for results: hear which tasks ended",
    "relay": "publish task references and hints, make and repair streams, tell workers of cancels",
    "worker": "receive and acknowledge tasks of the deliver group, make consumers; cannot publish tasks",
    "operator": "people: streams apply, workers list and control",
    "reader": "look at streams and workers, change nothing",
}
"""Every user, without its prefix, and what it is for."""


def inbox_prefix(prefix: str, role: str) -> str:
    """What ``DISPATCHER_NATS_INBOX_PREFIX`` must be for that role."""
    return f"_INBOX_{prefix}{role}"


def password_variable(prefix: str, role: str) -> str:
    """The environment variable that nats-server reads the user's password (plain or bcrypt) from."""
    return f"{prefix}{role}_PASSWORD".upper()


def nats_auth(namespace: str, streams: Iterable[str], prefix: str) -> str:
    """An ``authorization`` block for nats-server's configuration file, with variables where passwords belong."""
    subjects = Subjects(namespace)
    names = list(streams)
    lines = [
        f"# Users of the dispatcher, namespace {namespace}.  Make it again when streams.conf gets another stream.",
        "# nats-server takes the passwords from its environment: texts that begin with a letter, or bcrypt hashes",
        "# Each process needs its user's inbox: DISPATCHER_NATS_INBOX_PREFIX as noted at the user.",
        "authorization {",
        "  timeout: 5",
        "  users: [",
    ]
    for role, purpose in NATS_ROLES.items():
        publish, hear = _rights(role, subjects, names)
        inbox = inbox_prefix(prefix, role)
        lines += [
            f"    # {purpose}; DISPATCHER_NATS_INBOX_PREFIX={inbox}",
            "    {",
            f"      user: {prefix}{role}",
            f"      password: ${password_variable(prefix, role)}",
            "      permissions: {",
            # an empty list would allow everything
            f"        publish: {{ allow: {_list(publish or [f'{inbox}.>'])} }}",
            f"        subscribe: {{ allow: {_list([*hear, f'{inbox}.>'])} }}",
            *(["        allow_responses: true"] if role == "worker" else []),
            "      }",
            "    }",
        ]
    return "\n".join([*lines, "  ]", "}", ""])


def _rights(role: str, subjects: Subjects, streams: list[str]) -> tuple[list[str], list[str]]:
    """What a role may publish, and what it may subscribe to beside its inbox."""
    control = f"{subjects.namespace}.ctl.>"
    seen = [subjects.settled, subjects.waits, subjects.all_lanes, subjects.all_hints]  # what a tail follows
    if role == "publisher":
        return [], [subjects.settled]
    if role == "relay":
        tasks = [subjects.stream_filter(stream) for stream in streams]
        tasks += [subjects.hint(stream, ">", "")[:-1] for stream in streams]
        own = [subjects.beat, subjects.cancel, subjects.settled, subjects.waits]
        reading = [f"$JS.API.STREAM.MSG.GET.{subjects.stream_name(stream)}" for stream in streams]
        making = _api(subjects, streams, "STREAM.CREATE.{}", "STREAM.UPDATE.{}", *_CONSUMERS)
        making += _api(subjects, streams, "STREAM.MSG.DELETE.{}", "CONSUMER.DELETE.{}.>")  # repair after damage
        return [*tasks, *own, *_LOOK, *reading, *making], [control]
    if role == "worker":
        acks = [f"$JS.ACK.{subjects.stream_name(stream)}.>" for stream in streams]
        own = [subjects.settled, subjects.waits, subjects.demand, subjects.busy]
        arriving = [to(stream, ">", "")[:-1] for stream in streams for to in (subjects.push, subjects.hint)]
        pushes = [f"{subject} {DELIVER_GROUP}" for subject in arriving]
        return [*acks, *own, *_LOOK, *_api(subjects, streams, "STREAM.CREATE.{}", *_CONSUMERS)], [*pushes, control]
    if role == "operator":
        every = _api(subjects, streams, "STREAM.*.{}", "STREAM.*.*.{}", "CONSUMER.*.{}", "CONSUMER.*.{}.>", *_CONSUMERS)
        return [control, *_LOOK, *every], [*seen, control]
    return [subjects.workers, *_LOOK, *_api(subjects, streams, *_CONSUMERS[2:])], [*seen, control]


_LOOK = ["$JS.API.STREAM.INFO.*", "$JS.API.STREAM.NAMES", "$JS.API.STREAM.LIST"]
_CONSUMERS = ("CONSUMER.CREATE.{}.>", "CONSUMER.DURABLE.CREATE.{}.>", "CONSUMER.INFO.{}.>", "CONSUMER.LIST.{}")


def _api(subjects: Subjects, streams: list[str], *verbs: str) -> list[str]:
    return [f"$JS.API.{verb.format(subjects.stream_name(stream))}" for stream in streams for verb in verbs]


def _list(texts: list[str]) -> str:
    return "[" + ", ".join(json.dumps(text) for text in texts) + "]"
