"""Secrets become asterisks whatever the stored bytes look like; nothing printed can steer a terminal."""

from __future__ import annotations

import pytest

from dispatcher.masking import MASK, printable, shown_args, shown_result


def test_named_parameters_are_masked_as_a_whole() -> None:
    assert shown_args(b'{"a": 1, "card": {"number": "4111"}}', ["card"]) == {"a": 1, "card": MASK}
    assert shown_args(b'{"a": 1, "card": {"number": "4111"}}', ["card.number"]) == {"a": 1, "card": MASK}
    assert shown_args(b'{"a": 1}', []) == {"a": 1}
    assert shown_args(None, ["a"]) is None


@pytest.mark.parametrize("stored", [b'["s3cret"]', b'"s3cret"', b"s3cret", b"\xff", b"[" * 100_000])
def test_what_cannot_be_told_apart_is_hidden(stored: bytes) -> None:
    assert shown_args(stored, ["token"]) == MASK


@pytest.mark.parametrize(("codec", "key_id"), [(2, None), (1, 7)])
def test_other_codecs_and_encrypted_bytes_are_hidden(codec: int, key_id: int | None) -> None:
    assert shown_args(b"{}", [], codec, key_id) == MASK
    assert shown_result(b"{}", False, codec, key_id) == MASK


def test_results() -> None:
    assert shown_result(b'{"ok": true}', False) == {"ok": True}
    assert shown_result(b'{"ok": true}', True) == MASK
    assert shown_result(None, True) is None
    assert shown_result(b"\xff\xfe", False) == "<2 unreadable bytes>"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain äöü 漢字 😀", "plain äöü 漢字 😀"),
        ("\x1b[2Jgone", "\\x1b[2Jgone"),
        ("a\rb\x07", "a\\rb\\x07"),
        ("tab\tline\n", "tab\tline\n"),
        ("\x9b31m", "\\x9b31m"),
        ("right\u202eleft", "right\\u202eleft"),
        ("half \ud800", "half \\ud800"),
    ],
)
def test_printable(text: str, shown: str) -> None:
    assert printable(text) == shown
