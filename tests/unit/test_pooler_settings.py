"""The two ways to one database: through a pooler and past it, and never past it to another database."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dispatcher.cli.main import main
from dispatcher.cli.options import load_settings
from dispatcher.dev.beacon import Beacon
from dispatcher.dev.child import environment
from dispatcher.settings import Settings

POOLED, DIRECT = "postgresql://u:hunter2@pool:6432/d", "postgresql://u:hunter2@db:5432/d"
WAY = "DISPATCHER_DIRECT_DATABASE_URL"


@pytest.fixture
def both(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISPATCHER_DATABASE_URL", POOLED)
    monkeypatch.setenv(WAY, DIRECT)


def run(*arguments: str) -> None:
    with pytest.raises(SystemExit) as left:
        main(list(arguments))
    assert left.value.code in (0, None)


@pytest.mark.usefixtures("both")
def test_direct_settings_lead_past_the_pooler_and_know_of_none() -> None:
    settings = load_settings(use_dev=False)
    assert (settings.pooled, settings.database_url) == (True, POOLED)
    direct = settings.direct()
    assert (direct.pooled, direct.database_url) == (False, DIRECT)
    assert direct.direct() is direct
    assert "hunter2" not in repr(settings)
    assert Settings(**direct.model_dump()) == direct
    assert environment(direct).get(WAY) is None and environment(settings)[WAY] == DIRECT


def test_without_a_pooler_there_is_one_way() -> None:
    settings = Settings(database_url=DIRECT)
    assert not settings.pooled
    assert settings.direct() is settings


def test_the_password_and_the_drivers_name_are_those_of_both() -> None:
    settings = Settings(
        database_url="postgresql+psycopg://u@pool/d", direct_database_url="postgresql+asyncpg://u@db/d",
        database_password="p w",
    )  # fmt: skip
    assert settings.database_url == "postgresql://u:p%20w@pool/d"
    assert settings.direct_database_url == "postgresql://u:p%20w@db/d"


@pytest.mark.usefixtures("both")
def test_whoever_names_another_database_is_not_led_past_it_to_the_first(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A relay on a test's database would otherwise publish the tasks of production."""
    other = "postgresql://u@elsewhere/d"
    assert load_settings(database_url=other).direct().database_url == other
    assert Settings(database_url=other).direct().database_url == other
    monkeypatch.delenv(WAY)
    (tmp_path / "way").write_text(DIRECT)
    monkeypatch.setenv(f"{WAY}_FILE", str(tmp_path / "way"))
    assert Settings().direct().database_url == DIRECT
    assert Settings(database_url=other).direct().database_url == other
    assert Settings(database_url=other, direct_database_url=POOLED).direct().database_url == POOLED


@pytest.mark.usefixtures("both")
def test_config_show_masks_the_way_past_the_pooler(capsys: pytest.CaptureFixture[str]) -> None:
    run("config", "show", "--json")
    shown = json.loads(capsys.readouterr().out)["settings"]["direct_database_url"]
    assert (shown["value"], shown["origin"]) == ("postgresql://u:********@db:5432/d", f"environment {WAY}")
    run("config", "show", "--json", "--database-url", "postgresql://elsewhere/d")
    shown = json.loads(capsys.readouterr().out)["settings"]["direct_database_url"]
    assert (shown["value"], shown["origin"]) == (None, "default")


def test_the_servers_of_dispatcher_dev_are_not_mixed_with_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DISPATCHER_DATA_DIR", str(tmp_path))
    beacon = Beacon(tmp_path)
    beacon.light({"settings": {"database_url": "postgresql://dev/d", "nats_url": "nats://dev"}})
    try:
        assert load_settings().database_url == "postgresql://dev/d"
        run("dev", "--env")
        assert "unset" not in capsys.readouterr().out
        monkeypatch.setenv(WAY, DIRECT)
        assert load_settings().database_url is None
        run("dev", "--env")
        assert capsys.readouterr().out.splitlines()[-1] == f"unset {WAY}"
    finally:
        beacon.close()
