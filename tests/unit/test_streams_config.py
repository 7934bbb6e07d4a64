"""streams.conf: what is accepted, what is refused, and where the error points."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from dispatcher.errors import ConfigurationError
from dispatcher.streams.config import StreamsConfig, load, loads
from dispatcher.streams.problems import StreamsFileError

ROOT = Path(__file__).resolve().parents[2]


def problems_of(text: str) -> list[str]:
    with pytest.raises(StreamsFileError) as caught:
        loads(text, "f")
    return [str(problem) for problem in caught.value.problems]


def test_without_a_file_there_is_one_stream_with_the_defaults() -> None:
    config = load(None)
    assert list(config.streams) == ["TASKS"]
    assert config.streams["TASKS"].max_consumers == 4000
    queue = config.queue("anything")
    assert queue.stream == "TASKS"
    assert queue.lanes == {"high": 10, "default": 20, "low": 30}
    assert queue.ack_wait == timedelta(seconds=15)


def test_the_shipped_file_spells_out_the_defaults() -> None:
    assert load(ROOT / "streams.conf") == load(None) == loads("")


def test_every_field_of_the_shipped_file_exists_and_every_default_is_shown() -> None:
    text = (ROOT / "streams.conf").read_text()
    for name in StreamsConfig.model_fields["defaults"].annotation.model_fields:  # type: ignore[union-attr]
        assert name in text


def test_defaults_reach_streams_and_queues_and_unlisted_queues() -> None:
    config = loads(
        """
        [defaults]
        num_replicas = 3
        ack_wait = "20s"
        max_bytes = "10GB"
        placement.tags = ["ssd"]
        [streams.BULK]
        num_replicas = 1
        [queues.mail]
        stream = "BULK"
        lanes = ["urgent", "later"]
        """
    )
    assert config.streams["TASKS"].num_replicas == 3
    assert config.streams["BULK"].num_replicas == 1
    assert config.streams["BULK"].max_bytes == 10 * 1024**3
    assert config.streams["BULK"].placement is not None
    assert config.queues["mail"].lanes == {"urgent": 10, "later": 20}
    assert config.queues["mail"].ack_wait == config.queue("other").ack_wait == timedelta(seconds=20)


def test_fixed_fields_may_be_stated_with_their_value() -> None:
    config = loads(
        """
        [streams.TASKS]
        retention = "workqueue"
        discard = "new"
        max_age = "0s"
        [queues.a]
        max_deliver = -1
        deliver_group = "workers"
        backoff = []
        flow_control = false
        """
    )
    assert config == loads("[queues.a]")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[streams.TASKS]\nretention = 'limits'", 'f:2: streams.TASKS.retention: only "workqueue" is possible'),
        ("[streams.TASKS]\nmax_age = '7d'", "f:2: streams.TASKS.max_age: only 0 is possible"),
        ("[streams.TASKS]\ndiscard = 'old'", 'f:2: streams.TASKS.discard: only "new" is possible'),
        ("[streams.TASKS]\nsubjects = ['x']", "f:2: streams.TASKS.subjects: cannot be set"),
        ("[queues.a]\n\nmax_deliver = 20", "f:3: queues.a.max_deliver: only -1 is possible"),
        ("[queues.a]\nbackoff = ['1s']", "f:2: queues.a.backoff: only [] is possible"),
        ("[queues.a]\nidle_heartbeat = '5s'", "f:2: queues.a.idle_heartbeat: only 0 is possible"),
        ("[queues.a]\nflow_control = true", "f:2: queues.a.flow_control: only false is possible"),
        ("[queues.a]\nflow_control = 0", "f:2: queues.a.flow_control: only false is possible"),
        ("[defaults]\nmax_deliver = 3", "f:2: defaults.max_deliver: only -1 is possible"),
    ],
)
def test_what_breaks_the_protocol_is_refused_with_the_reason(text: str, expected: str) -> None:
    (problem,) = problems_of(text)
    assert problem.startswith(expected)
    assert ": " in problem.removeprefix(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("version = 2", "f:1: version: must be 1"),
        ("[stream.X]", "f:1: stream: unknown field; did you mean 'streams'?"),
        ("[defaults]\nnum_replica = 3", "f:2: defaults.num_replica: unknown field; did you mean 'num_replicas'?"),
        ("[queues.a]\nack_wiat='9s'", "f:2: queues.a.ack_wiat: unknown field; did you mean 'ack_wait'?"),
        ("[streams.TASKS]\nstorage = 'flie'", "f:2: streams.TASKS.storage: must be 'file' or 'memory'; did you mean"),
        ("[queues]\na.ack_wait = '1s'", "f:2: queues.a.ack_wait: must be greater than or equal to 2s, not '1s'"),
        (
            "[queues.a]\nack_wait = 30",
            'f:2: queues.a.ack_wait: write a duration with its unit, in quotes, for example "30s"',
        ),
        ("[queues.a]\nack_wait = '30 s'", "f:2: queues.a.ack_wait: '30 s' is not a duration"),
        ("[streams.TASKS]\nmax_bytes = '10 gigs'", "f:2: streams.TASKS.max_bytes: '10 gigs' is not a size"),
        ("[streams.TASKS]\nmax_bytes = 0", "f:2: streams.TASKS.max_bytes: must be greater than 0, or -1"),
        ("[streams.TASKS]\nnum_replicas = 6", "f:2: streams.TASKS.num_replicas: must be less than or equal to 5"),
        ("[streams.TASKS]\nnum_replicas = '3'", "f:2: streams.TASKS.num_replicas: must be a valid integer"),
        ("[streams.'a b']", "f:1: streams.a b: is not a legal name"),
        ("[queues.a]\nlanes = { 'x--y' = 1 }", "f:2: queues.a.lanes.x--y: is not a legal name"),
        ("[queues.a]\nlanes = { x = 1,\n y = 'z' }", None),
        ("[queues.a]\nlanes = []", "f:2: queues.a.lanes: a queue has 1 to 32 lanes"),
        ("[queues.a]\nlanes = ['x', 'x']", "f:2: queues.a.lanes: a list of lanes holds different names"),
        ("[queues.a]\nlanes.high = 40000", "f:2: queues.a.lanes.high: must be less than or equal to 32767"),
        (
            "[queues.a]\nstream = 'TSKS'",
            "f:2: queues.a.stream: there is no stream 'TSKS' in this file; did you mean 'TASKS'?",
        ),
        ("queues = 3", "f:1: queues: must be a table"),
        ("[queues]\na = 3", "f:2: queues.a: must be a table"),
        ("[queues.a]\nack_wait = '1", "f:2: not legal TOML: "),
        ("[defaults]\n\n\nack_wait = '1s'\n[queues.a]\n[queues.b]", "f:4: defaults.ack_wait: must be"),
    ],
)
def test_each_mistake_is_told_with_its_line(text: str, expected: str | None) -> None:
    (problem,) = problems_of(text)
    if expected is None:  # inline tables over several lines are not TOML 1.0
        assert problem.startswith("f:2: not legal TOML")
    else:
        assert problem.startswith(expected)


def test_all_mistakes_are_told_at_once_in_the_order_of_the_file() -> None:
    found = problems_of("[queues.a]\nmax_deliver = 1\nfoo = 1\n[streams.TASKS]\nstorage = 'x'")
    assert [problem.split(":")[1] for problem in found] == ["2", "3", "5"]


def test_a_missing_or_unreadable_file_is_told_without_traceback(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"none\.conf: cannot be read: No such file"):
        load(tmp_path / "none.conf")
    (tmp_path / "latin.conf").write_bytes(b"# \xff")
    with pytest.raises(ConfigurationError, match="is not UTF-8 text"):
        load(tmp_path / "latin.conf")


def test_files_with_byte_order_mark_and_windows_line_ends_are_read() -> None:
    assert loads("\ufeffversion = 1\r\n[queues.a]\r\n") == loads("[queues.a]")
    assert problems_of("version = 1\r\n[queues.a]\r\nx = 1\r\n")[0].startswith("f:3: queues.a.x")
