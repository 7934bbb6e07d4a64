"""docker-compose.yml, Dockerfile, .dockerignore: consistent in themselves and with our commands and settings.

No container is started here; ``test_promises_cluster`` runs the same NATS configuration and the same processes.
"""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

from dispatcher.cli.main import COMMANDS, _load
from dispatcher.cli.options import variables_of
from dispatcher.embedded.binaries import find_nats_server
from dispatcher.nats_url import servers_and_login
from dispatcher.settings import Settings
from dispatcher.streams.config import loads
from tests.fixtures.compose import REPOSITORY, config, document, make_secrets

SERVICES: dict[str, dict[str, Any]] = document()["services"]
OURS = {name: service for name, service in SERVICES.items() if service.get("image") == "jetstream-dispatcher"}
NATS = {name: service for name, service in SERVICES.items() if name.startswith("nats-")}
REGISTRY = re.compile(r"^[^/]*[.:][^/]*/")
"""A host name before the first slash of an image."""
each_of_ours = pytest.mark.parametrize("name", OURS)


def lines_of(file: str) -> list[str]:
    text = re.sub(r"\\\n\s*", "", (REPOSITORY / file).read_text())
    return [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]


def parse(words: list[str]) -> None:
    """Let the command line parse this without running it; raises what a user would see."""
    command = _load(words[0], COMMANDS[words[0]])
    context = command.make_context(words[0], list(words[1:]))
    while hasattr(command, "commands"):
        name, command, rest = command.resolve_command(context, context._protected_args + context.args)
        context = command.make_context(name, rest, parent=context)


def seconds(text: str) -> float:
    number, unit = re.fullmatch(r"(\d+)(s|m)", text).groups()  # type: ignore[union-attr]
    return float(number) * {"s": 1, "m": 60}[unit]


def test_it_is_the_shape_of_production() -> None:
    assert len(NATS) == 3 and SERVICES["relay"]["deploy"]["replicas"] == 2
    assert SERVICES["worker"]["deploy"]["replicas"] >= 2 and "postgres" in SERVICES
    assert loads(config("streams")).streams["TASKS"].num_replicas == 3
    assert set(OURS) == {"migrate", "relay", "worker"}


@each_of_ours
def test_commands_are_ones_that_we_have(name: str) -> None:
    parse(OURS[name]["command"])
    test = OURS[name]["healthcheck"].get("test")
    if test:
        assert test[:2] == ["CMD", "dispatcher"]
        parse(test[2:])


def test_a_command_that_we_do_not_have_is_noticed() -> None:
    for words in (["relay", "--no-such-option"], ["migrate", "sideways"], ["worker"]):
        with pytest.raises(Exception, match=r"(?i)no such|missing"):
            parse(words)


@each_of_ours
def test_variables_are_settings_and_their_values_are_valid(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    known = {variable for field in Settings.model_fields for variable in variables_of(field)}
    for variable, value in OURS[name]["environment"].items():
        assert isinstance(value, str), f"{variable}: compose wants a text"
        assert variable.removesuffix("_FILE") in known
        if variable in known:
            monkeypatch.setenv(variable, value)
        else:
            assert variable in ("DISPATCHER_DATABASE_URL_FILE", "DISPATCHER_NATS_URL_FILE")
            assert value.removeprefix("/run/secrets/") in OURS[name]["secrets"]
    assert Settings().metrics_port is not None  # the health check asks there


def test_workers_get_their_grace_time_before_they_are_killed() -> None:
    assert seconds(SERVICES["worker"]["stop_grace_period"]) >= Settings().grace.total_seconds() + 5


def mounted(service: dict[str, Any], kind: str) -> Iterator[tuple[str, str]]:
    for item in service.get(kind, []):
        source = item if isinstance(item, str) else item["source"]
        yield source, f"/run/secrets/{source}" if isinstance(item, str) else item["target"]


@pytest.mark.parametrize("name", SERVICES)
def test_everything_that_is_named_exists(name: str) -> None:
    service = SERVICES[name]
    for kind in ("configs", "secrets"):
        assert {source for source, _ in mounted(service, kind)} <= set(document()[kind])
    assert set(service.get("depends_on", {})) <= set(SERVICES)
    for other, how in service.get("depends_on", {}).items():
        if how["condition"] == "service_healthy":
            assert "test" in SERVICES[other]["healthcheck"]
    for volume in service.get("volumes", []):
        source = volume.split(":")[0]
        assert (REPOSITORY / source).exists() if source.startswith(".") else source in document()["volumes"]
    files = {target for kind in ("configs", "secrets") for _, target in mounted(service, kind)}
    for value in service.get("environment", {}).values():
        if value.startswith(("/run/", "/etc/")):
            assert value in files
    assert not REGISTRY.match(service["image"])
    assert "test" in service["healthcheck"] or name == "migrate"
    assert not any(re.search(r"(?i)password|token", f"{k}={v}") for k, v in service.get("environment", {}).items()
                   if not k.endswith("_FILE"))  # fmt: skip


def test_secrets_are_the_documented_files_and_never_in_the_repository_or_the_image(tmp_path: Path) -> None:
    secrets = make_secrets(tmp_path)
    assert {f"./secrets/{file.name}" for file in secrets.iterdir()} == {
        secret["file"] for secret in document()["secrets"].values()
    }
    assert secrets.stat().st_mode & 0o077 == 0
    url = Settings(database_url=(secrets / "database_url").read_text(), nats_url=(secrets / "nats_url").read_text())
    assert (secrets / "postgres_password").read_text() in (url.database_url or "")
    servers, login = servers_and_login(url.nats_url or "")
    assert servers == [f"nats://{name}:4222" for name in NATS] and login["token"] in (secrets / "nats_auth").read_text()
    assert "/secrets/" in lines_of(".gitignore")


def test_nats_server_takes_the_configuration(tmp_path: Path) -> None:
    secrets = make_secrets(tmp_path)
    (tmp_path / "auth.conf").write_text((secrets / "nats_auth").read_text())
    (tmp_path / "nats.conf").write_text(config("nats"))
    for service in NATS.values():
        assert dict(mounted(service, "configs"))["nats"] == "/etc/nats/nats.conf" == service["command"][1]
        assert dict(mounted(service, "secrets"))["nats_auth"] == "/etc/nats/auth.conf"  # beside it: include is relative
        done = subprocess.run(
            [find_nats_server(os.environ), "-t", "-c", tmp_path / "nats.conf"],
            env=service["environment"], capture_output=True, text=True, timeout=30,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    for name in NATS:
        assert f"@{name}:6222" in (secrets / "nats_auth").read_text()


def ignored(path: str) -> bool:
    """Whether .dockerignore keeps a path of the repository out of the build: the last line that fits decides."""
    out = False
    for line in lines_of(".dockerignore"):
        pattern = line.removeprefix("!").removeprefix("**/")
        if fnmatch(path, pattern) or path.startswith(f"{pattern}/") or fnmatch(Path(path).name, pattern):
            out = not line.startswith("!")
    return out


def test_the_image_is_built_of_what_is_there_and_runs_as_nobody_special() -> None:
    lines = lines_of("Dockerfile")
    words = [line.split() for line in lines]
    for source in (source for word in words if word[0] == "COPY" and "--from" not in word[1] for source in word[1:-1]):
        assert (REPOSITORY / source).exists() and not ignored(source), source
    assert not any(REGISTRY.match(word[1]) for word in words if word[0] == "FROM")
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    copied = {source for word in words if word[0] == "COPY" for source in word[1:-1]}
    needed = {
        *project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"],
        project["project"]["readme"],
        "LICENSE",
    }
    assert needed | {"pyproject.toml", "constraints.txt"} <= copied
    [user] = [word[1] for word in words if word[0] == "USER"]
    assert int(user) > 0 and lines.index(f"USER {user}") > max(i for i, word in enumerate(words) if word[0] == "RUN")
    assert words[-2] == ["ENTRYPOINT", '["dispatcher"]']
    extras = re.search(r"jetstream-dispatcher\[([\w,]+)\]", "".join(lines))
    assert extras and set(extras[1].split(",")) <= set(project["project"]["optional-dependencies"])
    assert all(
        ignored(path) for path in ("secrets/database_url", ".git/config", "tests/conftest.py", ".venv/bin/python")
    )
    assert all(ignored(path) for path in ("state/__pycache__/x.pyc", "docker-compose.yml"))
