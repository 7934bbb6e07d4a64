"""The wheel, as strangers get it: built, installed into a clean environment, imported from another directory."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGES = ("dispatcher", "workers", "state")

IMPORT_ALL = """
import importlib, pkgutil, sys
import dispatcher, workers, state
for package in (dispatcher, workers, state):
    assert package.__file__.startswith(sys.argv[1]), package.__file__
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not module.name.endswith(("__main__", ".guard", "migrations.env")):
            importlib.import_module(module.name)
            print(module.name)
"""


def run(*argv: str | Path, cwd: Path) -> str:
    """Standard output of a program that must succeed, in an environment without our paths."""
    env = {name: text for name, text in os.environ.items() if not name.startswith(("PYTHON", "DISPATCHER", "PYTEST"))}
    result = subprocess.run([*map(str, argv)], cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{argv}: {result.stdout}\n{result.stderr}"
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", out, REPOSITORY, cwd=out)
    (found,) = out.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new environment with the wheel and, by path, the libraries that this one has already: no network needed."""
    root = tmp_path_factory.mktemp("clean") / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", root, cwd=root.parent)
    python = root / "bin/python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", "--no-index", wheel, cwd=root)
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=root).strip())
    # a path line, so that the .pth files over there (an editable install of ours) are not followed
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return root


def test_wheel_holds_the_three_packages_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == set(PACKAGES)
    assert {f"{package}/py.typed" for package in PACKAGES} <= names
    assert {f"{package}/__init__.py" for package in PACKAGES} <= names
    assert "dispatcher/embedded/guard.py" in names
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    ours = {str(path.relative_to(REPOSITORY)) for package in PACKAGES for path in (REPOSITORY / package).rglob("*.py")}
    assert ours <= names, "every module is in the wheel, migrations too"


def test_every_module_is_imported_from_another_directory(environment: Path, tmp_path: Path) -> None:
    modules = run(environment / "bin/python", "-W", "error", "-c", IMPORT_ALL, environment, cwd=tmp_path).split()
    assert {"dispatcher.settings", "state.machine", "dispatcher.embedded.servers"} <= set(modules)


def test_command_is_installed(environment: Path, tmp_path: Path) -> None:
    said = run(environment / "bin/dispatcher", "--help", cwd=tmp_path)
    assert "worker" in said
    assert "relay" in said


def test_embedded_servers_run_from_the_wheel(environment: Path, tmp_path: Path) -> None:
    code = (
        "from dispatcher.embedded import EmbeddedServers\n"
        "with EmbeddedServers(keep=False, postgres_settings={'shared_buffers': '32MB'}) as servers:\n"
        "    import psycopg\n"
        "    print(psycopg.connect(servers.database_url).execute('SELECT 40 + 2').fetchone()[0])\n"
    )
    (tmp_path / "service.py").write_text(code)
    # nats-server lies in the bin folder of the environment that the libraries were borrowed from
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]])
    said = run("/usr/bin/env", f"PATH={path}", environment / "bin/python", "service.py", cwd=tmp_path)
    assert said.strip() == "42"
