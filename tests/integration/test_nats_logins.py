"""Logins without a password: an nkey, and a .creds file with a signed user of an operator's account."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nkeys
import pytest

from dispatcher.bus import Bus
from dispatcher.embedded.binaries import find_nats_server
from dispatcher.embedded.ports import HOST, free_port
from dispatcher.errors import BusUnavailable
from dispatcher.settings import Settings
from tests.fixtures.patience import PATIENCE, until_blocking


def new_key(kind: int) -> nkeys.KeyPair:
    return nkeys.from_seed(bytearray(nkeys.encode_seed(os.urandom(32), kind)))


def public(key: nkeys.KeyPair) -> str:
    return bytes(key.public_key).decode()


def signed(signer: nkeys.KeyPair, subject: nkeys.KeyPair, claims: dict[str, Any]) -> str:
    """A JWT as ``nsc`` writes them."""
    body = {"iss": public(signer), "sub": public(subject), "iat": 1, "name": "test", "nats": claims | {"version": 2}}
    body["jti"] = base64.b32encode(hashlib.sha256(json.dumps(body).encode()).digest()).decode().rstrip("=")
    parts = [_encoded(json.dumps(part).encode()) for part in ({"typ": "JWT", "alg": "ed25519-nkey"}, body)]
    return ".".join([*parts, _encoded(signer.sign(".".join(parts).encode()))])


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


@contextmanager
def server(folder: Path, auth: str) -> Iterator[str]:
    port, conf, log = free_port(), folder / "nats.conf", folder / "nats.log"
    conf.write_text(f'listen: "{HOST}:{port}"\njetstream {{ store_dir: "{folder}/store" }}\n{auth}\n')
    with log.open("wb") as output:
        running = subprocess.Popen([str(find_nats_server(os.environ)), "-c", str(conf)], stderr=output)
    try:
        until_blocking(lambda: b"Server is ready" in log.read_bytes() or running.poll() is not None)
        assert running.poll() is None, log.read_text()
        yield f"nats://{HOST}:{port}"
    finally:
        running.terminate()
        running.wait(PATIENCE)


async def works(settings: Settings) -> None:
    bus = await Bus.connect(settings, name="test", timeout=PATIENCE)
    try:
        await bus.api("STREAM.CREATE.x", {"name": "x", "subjects": ["x.>"]})
        await bus.store([("x.1", b"", "id")], timeout=PATIENCE)
    finally:
        await bus.close()


async def is_refused(settings: Settings) -> None:
    with pytest.raises(BusUnavailable):
        await Bus.connect(settings, name="test", timeout=0.3)


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Settings]:
    """Settings as a process gets them."""

    def read(**variables: object) -> Settings:
        with monkeypatch.context() as patch:
            for name, value in variables.items():
                patch.setenv(f"DISPATCHER_{name.upper()}", str(value))
            return Settings()

    return read


async def test_an_nkey_from_a_file_logs_in_and_another_does_not(
    tmp_path: Path, environment: Callable[..., Settings]
) -> None:
    mine, other = new_key(nkeys.PREFIX_BYTE_USER), new_key(nkeys.PREFIX_BYTE_USER)
    for name, key in (("mine", mine), ("other", other)):
        (tmp_path / name).write_bytes(bytes(key.seed) + b"\n")
    with server(tmp_path, f"authorization {{ users: [ {{ nkey: {public(mine)} }} ] }}") as url:
        await works(environment(nats_url=url, nats_nkey=tmp_path / "mine"))
        await is_refused(environment(nats_url=url, nats_nkey=tmp_path / "other"))
        await is_refused(environment(nats_url=url))


async def test_a_creds_file_logs_in_and_one_of_another_account_does_not(
    tmp_path: Path, environment: Callable[..., Settings]
) -> None:
    operator, account = new_key(nkeys.PREFIX_BYTE_OPERATOR), new_key(nkeys.PREFIX_BYTE_ACCOUNT)
    user, system, stranger = new_key(nkeys.PREFIX_BYTE_USER), *(new_key(nkeys.PREFIX_BYTE_ACCOUNT) for _ in range(2))
    everything = dict.fromkeys(("subs", "data", "payload", "conn", "leaf", "imports", "exports"), -1)
    limits = (
        everything | dict.fromkeys(("mem_storage", "disk_storage", "streams", "consumer"), -1) | {"wildcards": True}
    )
    accounts = "\n".join(
        f"{public(key)}: {signed(operator, key, {'type': 'account', 'limits': rights})}"
        for key, rights in ((account, limits), (system, everything))
    )
    for name, signer in (("mine", account), ("other", stranger)):
        jwt = signed(signer, user, {"type": "user", **dict.fromkeys(("subs", "data", "payload"), -1)})
        seed = bytes(user.seed).decode()
        (tmp_path / f"{name}.creds").write_text(
            f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
        )
    auth = (
        f"operator: {signed(operator, operator, {'type': 'operator'})}\nsystem_account: {public(system)}\n"
        f"resolver: MEMORY\nresolver_preload: {{\n{accounts}\n}}"
    )
    with server(tmp_path, auth) as url:
        await works(environment(nats_url=url, nats_creds=tmp_path / "mine.creds"))
        await is_refused(environment(nats_url=url, nats_creds=tmp_path / "other.creds"))
        await is_refused(environment(nats_url=url))
