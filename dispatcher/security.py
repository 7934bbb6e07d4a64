"""How to log in to NATS and how to trust it: from settings to the options of the client.  No I/O but reading files."""

from __future__ import annotations

import ssl
from itertools import pairwise
from pathlib import Path
from typing import Any

from dispatcher.errors import ConfigurationError
from dispatcher.settings import Settings

__all__ = ["login_options", "wants_tls"]

_JWT, _SEED = b"BEGIN NATS USER JWT", b"BEGIN USER NKEY SEED"


def wants_tls(settings: Settings) -> bool:
    """Whether a connection without TLS must be refused: a server is ``tls://``, or a CA or certificate given."""
    urls = (settings.nats_url or "").split(",")
    return bool(settings.nats_ca or settings.nats_cert) or any(url.strip().startswith("tls://") for url in urls)


def login_options(settings: Settings) -> dict[str, Any]:
    """Keyword arguments for the client.  Raises ``ConfigurationError`` naming the setting and what is wrong with it."""
    ways = {
        "nats_creds": settings.nats_creds is not None,
        "nats_nkey": settings.nats_nkey is not None,
        "nats_user": settings.nats_user is not None,
        "nats_token": settings.nats_token is not None,
    }
    chosen = [f"DISPATCHER_{name.upper()}" for name, given in ways.items() if given]
    if len(chosen) > 1:
        raise ConfigurationError(f"{' and '.join(chosen)} exclude each other: NATS takes one login")
    options: dict[str, Any] = {"inbox_prefix": settings.nats_inbox_prefix}
    if settings.nats_creds is not None or settings.nats_nkey is not None:
        if not _has_nkeys():
            raise ConfigurationError(f"{chosen[0]} needs the package nkeys: pip install 'jetstream-dispatcher[nkeys]'")
        options |= _key_login(settings)
    if settings.nats_user is not None:
        options |= {"user": settings.nats_user, "password": settings.nats_password or ""}
    if settings.nats_token is not None:
        options["token"] = settings.nats_token
    if wants_tls(settings):
        options["tls"] = _context(settings)
    return options


def _context(settings: Settings) -> ssl.SSLContext:
    """Server certificates are verified, host name included, by the given CA or those of the system."""
    ca = None if settings.nats_ca is None else str(_readable("nats_ca", settings.nats_ca))
    try:
        context = ssl.create_default_context(cafile=ca)
    except ssl.SSLError as error:
        raise ConfigurationError(f"DISPATCHER_NATS_CA={ca} holds no certificate in PEM form: {error}") from None
    if settings.nats_cert is None:
        if settings.nats_key is not None:
            raise ConfigurationError("DISPATCHER_NATS_KEY is given without its certificate: set DISPATCHER_NATS_CERT")
        return context
    cert = _readable("nats_cert", settings.nats_cert)
    key = None if settings.nats_key is None else _readable("nats_key", settings.nats_key)
    try:
        context.load_cert_chain(cert, key)
    except (ssl.SSLError, OSError) as error:
        raise ConfigurationError(
            f"DISPATCHER_NATS_CERT={cert} and DISPATCHER_NATS_KEY={key} are no certificate with its key (PEM): {error}"
        ) from None
    return context


def _readable(name: str, path: Path) -> Path:
    try:
        with path.open("rb"):
            return path
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigurationError(f"DISPATCHER_{name.upper()}={path} cannot be read: {reason}") from None


def _key_login(settings: Settings) -> dict[str, Any]:
    """The option that names the file, after a look into it: what is wrong with it nats-py does not say."""
    if settings.nats_nkey is not None:
        seed = _readable("nats_nkey", settings.nats_nkey).read_bytes().strip()
        _check_seed("nats_nkey", settings.nats_nkey, seed)
        return {"nkeys_seed": str(settings.nats_nkey)}
    assert settings.nats_creds is not None
    path = _readable("nats_creds", settings.nats_creds)
    pairs = list(pairwise(path.read_bytes().split(b"\n")))
    jwt, seed = (next((after for line, after in pairs if mark in line), b"") for mark in (_JWT, _SEED))
    if not (jwt and seed):  # without the first of them nats-py would read on for ever
        raise ConfigurationError(
            f"DISPATCHER_NATS_CREDS={path} is no .creds file: it needs a USER JWT and a USER NKEY SEED, as of nsc"
        )
    _check_seed("nats_creds", path, seed)
    return {"user_credentials": str(path)}


def _check_seed(name: str, path: Path, seed: bytes) -> None:
    from nkeys import NkeysError, from_seed

    try:
        from_seed(bytearray(seed))
    except (NkeysError, ValueError):
        raise ConfigurationError(
            f"DISPATCHER_{name.upper()}={path} holds no nkey seed: a line that begins with SU"
        ) from None


def _has_nkeys() -> bool:
    from importlib.util import find_spec

    return find_spec("nkeys") is not None
