"""Takes the login out of a list of NATS URLs, so that it holds for every node of a cluster.

A client learns further nodes from the server, as bare ``host:port``.  With the login in the URLs alone it knows none
for those, and counts a node that is written in both ways twice (seen: ``Authorization Violation`` at every reconnect).
"""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote, urlsplit

__all__ = ["servers_and_login", "without_logins"]


def servers_and_login(url: str) -> tuple[list[str], dict[str, Any]]:
    """The servers of a comma separated list, and the keyword arguments that give the login to nats-py.

    URLs with different logins are left as they are.
    """
    urls = [part.strip() for part in url.split(",") if part.strip()]
    logins = {_login(part) for part in urls}
    if len(logins) != 1:
        with_login = logins - {(None, None)}
        if len(with_login) != 1:
            return urls, {}
        logins = with_login
    [(user, password)] = logins
    if user is None:
        return urls, {}
    servers = [_without_login(part) for part in urls]
    if password is None:
        return servers, {"token": unquote(user)}
    return servers, {"user": unquote(user), "password": unquote(password)}


def without_logins(url: str) -> str:
    """The list as it may be shown: hosts and ports, no secret."""
    return ", ".join(part.rsplit("@", 1)[-1] for part in url.split(","))


def _without_login(url: str) -> str:
    """One URL without what stands before the ``@``."""
    scheme, mark, rest = url.rpartition("://")
    return scheme + mark + rest.rsplit("@", 1)[-1]


def _login(url: str) -> tuple[str | None, str | None]:
    parts = urlsplit(url if "://" in url else f"nats://{url}")
    return parts.username, parts.password
