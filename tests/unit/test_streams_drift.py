"""What counts as a difference between server and file, what of it the server can change; units; version policy."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from dispatcher.errors import ConfigurationError
from dispatcher.streams.config import QueueConfig, StreamConfig
from dispatcher.streams.drift import consumer_differences, merged, stream_differences
from dispatcher.streams.server import check_server_version
from dispatcher.streams.units import format_duration, format_size, nanoseconds, parse_duration, parse_size
from dispatcher.streams.wanted import consumer_document, is_ours, stream_document
from dispatcher.subjects import Subjects

SUBJECTS = Subjects("ns")
NEW, OLD = (2, 15, 1), (2, 10, 26)


def stream_as_server_shows(**changes: Any) -> dict[str, Any]:
    document = stream_document(SUBJECTS, "TASKS", StreamConfig())
    shown = {name: value for name, value in document.items() if value not in ("", False)}
    metadata = {**document["metadata"], "_nats.ver": "2.15.1"}
    return {**shown, "allow_direct": True, "consumer_limits": {}, "metadata": metadata, **changes}


def differing(found: dict[str, Any], config: StreamConfig | None = None, **options: Any) -> dict[str, str]:
    wanted = stream_document(SUBJECTS, "TASKS", config or StreamConfig())
    options = {"clustered": False, "version": NEW, **options}
    return {d.field: d.obstacle for d in stream_differences(found, wanted, **options) if d.field != "metadata"}


def test_a_stream_as_wanted_has_no_differences() -> None:
    assert differing(stream_as_server_shows()) == {}


def test_fields_the_server_changes_in_place() -> None:
    found = stream_as_server_shows(max_bytes=5, discard="old", max_age=9, subjects=["x"], max_msgs_per_subject=1)
    assert differing(found) == dict.fromkeys(
        ["max_bytes", "discard", "max_age", "subjects", "max_msgs_per_subject"], ""
    )


def test_fields_the_server_cannot_change() -> None:
    found = stream_as_server_shows(retention="limits", storage="memory", sealed=True, mirror={"name": "x"})
    assert all(differing(found).values())
    assert set(differing(found)) == {"retention", "storage", "sealed", "mirror"}


def test_max_consumers_changes_in_place_only_on_newer_servers() -> None:
    found = stream_as_server_shows(max_consumers=-1)
    assert differing(found) == {"max_consumers": ""}
    assert differing(found, version=OLD)["max_consumers"]


def test_replicas_without_a_cluster_are_a_contradiction_even_if_the_server_shows_them() -> None:
    three = StreamConfig(num_replicas=3)
    assert differing(stream_as_server_shows(num_replicas=3), three)["num_replicas"]
    assert differing(stream_as_server_shows(num_replicas=1), three)["num_replicas"]
    assert differing(stream_as_server_shows(num_replicas=1), three, clustered=True) == {"num_replicas": ""}
    assert differing(stream_as_server_shows(num_replicas=3), three, clustered=True) == {}


def consumer(**changes: Any) -> dict[str, Any]:
    document = consumer_document(SUBJECTS, "TASKS", "mail", "high", QueueConfig())
    return {**document, "num_replicas": 0, **changes}


def consumer_differing(**changes: Any) -> dict[str, bool]:
    wanted = consumer_document(SUBJECTS, "TASKS", "mail", "high", QueueConfig())
    return {d.field: bool(d.obstacle) for d in consumer_differences(consumer(**changes), wanted)}


def test_max_ack_pending_below_the_cap_is_the_leaders_to_set() -> None:
    assert consumer_differing(max_ack_pending=7) == {}
    assert consumer_differing(max_ack_pending=20_000) == {"max_ack_pending": False}
    assert consumer_differing(max_ack_pending=-1) == {"max_ack_pending": False}


def test_consumer_fields_that_the_protocol_forbids_are_differences() -> None:
    assert consumer_differing(backoff=[10**9], max_deliver=5) == {"backoff": False, "max_deliver": False}
    assert consumer_differing(idle_heartbeat=5, flow_control=True) == {"idle_heartbeat": True, "flow_control": True}
    assert consumer_differing(deliver_subject=None) == {"deliver_subject": True}
    assert consumer_differing(deliver_group="other") == {"deliver_group": False}


def test_an_update_keeps_what_others_set_and_drops_what_is_forbidden() -> None:
    wanted = consumer_document(SUBJECTS, "TASKS", "mail", "high", QueueConfig())
    found = consumer(backoff=[1], description="theirs", metadata={"_nats.ver": "2", "team": "x", "config": "old"})
    sent = merged(found, wanted)
    assert sent["description"] == "theirs" and "backoff" not in sent
    assert sent["metadata"] == {"team": "x", **wanted["metadata"]}


def test_the_stamp_changes_with_the_configuration_but_not_with_the_flow_control() -> None:
    def stamp(**fields: Any) -> str:
        return str(consumer_document(SUBJECTS, "TASKS", "m", "high", QueueConfig(**fields))["metadata"]["config"])

    assert stamp() == stamp(max_ack_pending=5) != stamp(ack_wait=timedelta(seconds=9))
    assert is_ours(consumer()) and not is_ours({"metadata": None}) and not is_ours({})


@pytest.mark.parametrize(
    ("text", "seconds"), [("30s", 30), ("1h30m", 5400), ("500ms", 0.5), ("1.5s", 1.5), ("7d", 604800), ("10us", 1e-5)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == timedelta(seconds=seconds)
    assert parse_duration(format_duration(nanoseconds(parse_duration(text)))) == parse_duration(text)


@pytest.mark.parametrize("wrong", ["", "30", "s", "3x", "-1s", "1s ", "1 s", 30, 1.5, True, None])
def test_what_is_no_duration(wrong: object) -> None:
    with pytest.raises(ValueError, match=r"duration"):
        parse_duration(wrong)


@pytest.mark.parametrize(
    ("text", "size"), [("10GB", 10 * 2**30), ("1K", 1000), ("1KiB", 1024), ("7", 7), ("7B", 7), (5, 5), (-1, -1)]
)
def test_sizes(text: object, size: int) -> None:
    assert parse_size(text) == size
    assert size < 0 or parse_size(format_size(size)) == size


@pytest.mark.parametrize("wrong", ["", "GB", "1.5GB", "-1GB", "10 gigs", 1.5, True, None])
def test_what_is_no_size(wrong: object) -> None:
    with pytest.raises(ValueError, match="size"):
        parse_size(wrong)


def test_server_versions() -> None:
    assert check_server_version("2.15.1") is None
    assert check_server_version("2.12.7") is None
    assert check_server_version("3.0.0-dev") is None
    assert "2.12.7" in str(check_server_version("2.12.6"))
    assert "2.12.7" in str(check_server_version("2.10.0"))
    with pytest.raises(ConfigurationError, match=r"2\.9\.10 is too old; upgrade"):
        check_server_version("2.9.10")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        check_server_version("unknown")
