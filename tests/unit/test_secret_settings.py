"""Secrets by file, logins, TLS and retention as settings: what is taken, and what a mistake is told."""

from __future__ import annotations

import ssl
from datetime import timedelta
from pathlib import Path

import pytest

from dispatcher.cli.main import main
from dispatcher.cli.options import load_settings
from dispatcher.errors import ConfigurationError
from dispatcher.nats_roles import NATS_ROLES, nats_auth
from dispatcher.retention import keep, longest
from dispatcher.security import login_options, wants_tls
from dispatcher.settings import Settings
from dispatcher.streams.config import loads
from dispatcher.streams.problems import StreamsFileError
from dispatcher.streams.units import FOREVER
from state.machine import State
from state.roles import check_prefix, role_statements


def test_any_setting_can_be_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in (("url", "postgresql+psycopg://u@h/d\n"), ("password", "p@ss/w rd"), ("nats", "nats://n:1\n")):
        (tmp_path / name).write_text(text)
    monkeypatch.setenv("DISPATCHER_DATABASE_URL_FILE", str(tmp_path / "url"))
    monkeypatch.setenv("DATABASE_URL", "postgresql://weaker/")
    monkeypatch.setenv("DISPATCHER_DATABASE_PASSWORD_FILE", str(tmp_path / "password"))
    monkeypatch.setenv("NATS_URL_FILE", str(tmp_path / "nats"))
    settings = load_settings(use_dev=False)
    assert settings.database_url == "postgresql://u:p%40ss%2Fw%20rd@h/d"
    assert settings.nats_url == "nats://n:1"
    assert "p@ss" not in repr(settings) and "p%40ss" not in repr(settings)


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "cannot be read: No such file"), (b"", "one line"), (b"a\nb", "one line"), (b"\xff", "not text in UTF-8")],
)
def test_a_file_that_holds_no_secret_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / "f").write_bytes(content)
    monkeypatch.setenv("DISPATCHER_NATS_TOKEN_FILE", str(tmp_path / "f"))
    with pytest.raises(ConfigurationError, match=f"^DISPATCHER_NATS_TOKEN_FILE=.*{message}"):
        load_settings(use_dev=False)


def test_a_variable_and_its_file_exclude_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISPATCHER_NATS_TOKEN", "t")
    monkeypatch.setenv("DISPATCHER_NATS_TOKEN_FILE", str(tmp_path / "f"))
    with pytest.raises(ConfigurationError, match="exclude each other"):
        load_settings(use_dev=False)


@pytest.mark.parametrize(
    ("url", "whole"),
    [
        ("postgresql://u@h:1/d?x=1", "postgresql://u:it%27s@h:1/d?x=1"),
        ("postgresql://u:old@h/d", "postgresql://u:it%27s@h/d"),
        ("host=h user=u", "host=h user=u password='it\\'s'"),
    ],
)
def test_the_password_becomes_a_part_of_the_url(url: str, whole: str) -> None:
    assert Settings(database_url=url, database_password="it's").database_url == whole


def test_logins_and_trust(tmp_path: Path) -> None:
    plain = login_options(Settings(nats_url="nats://a", nats_user="u", nats_password="p", nats_inbox_prefix="_IN"))
    assert plain == {"inbox_prefix": "_IN", "user": "u", "password": "p"}
    secure = Settings(nats_url="nats://a, tls://b", nats_token="t")
    context = login_options(secure)["tls"]
    assert context.verify_mode is ssl.CERT_REQUIRED and context.check_hostname
    assert not wants_tls(Settings(nats_url="nats://a")) and wants_tls(secure)


@pytest.mark.parametrize(
    ("setting", "text", "message"),
    [
        ("nats_nkey", "SUnothing", "DISPATCHER_NATS_NKEY=.*/file holds no nkey seed: a line that begins with SU"),
        ("nats_nkey", "", "holds no nkey seed"),
        ("nats_creds", "anything", "DISPATCHER_NATS_CREDS=.*/file is no .creds file: it needs a USER JWT"),
        (
            "nats_creds",
            "--BEGIN NATS USER JWT--\nx\n--BEGIN USER NKEY SEED--\nSUx\n",
            "CREDS=.*/file holds no nkey seed",
        ),
    ],
)
def test_a_file_that_holds_no_login_is_refused_and_not_shown(
    setting: str, text: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text(text)
    with pytest.raises(ConfigurationError, match=message) as error:
        login_options(Settings().model_copy(update={setting: tmp_path / "file"}))
    assert not text or text not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"nats_user": "u", "nats_token": "t"}, "DISPATCHER_NATS_USER and DISPATCHER_NATS_TOKEN exclude each other"),
        ({"nats_ca": Path("/nowhere.pem")}, "DISPATCHER_NATS_CA=/nowhere.pem cannot be read: No such file"),
        ({"nats_ca": Path(__file__)}, "holds no certificate"),
        ({"nats_cert": Path(__file__)}, "no certificate with its key"),
        ({"nats_key": Path(__file__), "nats_url": "tls://a"}, "set DISPATCHER_NATS_CERT"),
        ({"nats_nkey": Path("/nowhere.nk")}, "DISPATCHER_NATS_NKEY=/nowhere.nk cannot be read"),
    ],
)
def test_a_login_that_cannot_work_names_the_setting(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        login_options(Settings().model_copy(update=changes))


def test_how_long_tasks_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISPATCHER_KEEP_FAILED", "forever")
    monkeypatch.setenv("DISPATCHER_KEEP_CANCELLED", "120")
    settings = load_settings(use_dev=False)
    streams = loads('[defaults]\nkeep_succeeded = "1d"\n[queues.a]\nkeep_succeeded = "forever"\nkeep_failed = "2h"')
    assert settings.keep_failed == FOREVER and settings.keep_cancelled == timedelta(minutes=2)
    assert [keep(settings, streams, queue, State.SUCCEEDED) for queue in ("a", "b")] == [None, 86400]
    assert [keep(settings, streams, queue, State.FAILED) for queue in ("a", "b")] == [7200, None]
    assert longest(settings, streams, ["a"]) is longest(settings, streams, ["b"]) is None
    monkeypatch.delenv("DISPATCHER_KEEP_FAILED")
    assert longest(Settings(), loads(""), ["a", "b"]) == 90 * 86400


def test_a_retention_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for text in ("soon", "10", "-5d"):
        monkeypatch.setenv("DISPATCHER_KEEP_SUCCEEDED", text)
        with pytest.raises(ConfigurationError, match=r"DISPATCHER_KEEP_SUCCEEDED=.* give at least a minute: 30d"):
            load_settings(use_dev=False)
    with pytest.raises(StreamsFileError, match=r"f:2: queues.a.keep_failed: 'soon' is not a time to keep tasks"):
        loads('[queues.a]\nkeep_failed = "soon"', "f")
    with pytest.raises(StreamsFileError, match=r"f:2: queues.a.keep_failed: must be greater than or equal to 1m"):
        loads('[queues.a]\nkeep_failed = "1s"', "f")


def test_exports_hold_no_password_and_name_every_role() -> None:
    config = nats_auth("shop", ["TASKS", "BULK"], "x_")
    for role in NATS_ROLES:
        assert f"user: x_{role}\n" in config and f"password: $X_{role.upper()}_PASSWORD\n" in config
    assert '"shop.tasks.BULK.>"' in config and '"shop.push.BULK.> workers"' in config
    assert '">"' not in config
    script = role_statements("shop", "x_", ["v_tasks"])
    assert "PASSWORD" not in script and "{s}" not in script and "GRANT SELECT ON shop.v_tasks TO x_reader;" in script
    for wrong in ("", "X", "a b", "1", "a;"):
        with pytest.raises(ValueError, match="not legal"):
            check_prefix(wrong)


def test_config_show_masks_secrets_and_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "p").write_text("hidden's")
    monkeypatch.setenv("DISPATCHER_DATABASE_URL", "host=h user=u")
    monkeypatch.setenv("DISPATCHER_DATABASE_PASSWORD_FILE", str(tmp_path / "p"))
    monkeypatch.setenv("DISPATCHER_NATS_TOKEN", "hidden-token")
    with pytest.raises(SystemExit):
        main(["config", "show"])
    shown = capsys.readouterr()
    assert "hidden" not in shown.out and "s'" not in shown.out and shown.err == ""
    assert "file DISPATCHER_DATABASE_PASSWORD_FILE" in shown.out
    assert "forever" not in shown.out and "2592000s" in shown.out
