"""The login of NATS URLs holds for every node, also for those that only the server names."""

from __future__ import annotations

import pytest

from dispatcher.nats_url import servers_and_login


@pytest.mark.parametrize(
    ("url", "servers", "login"),
    [
        ("nats://a:4222", ["nats://a:4222"], {}),
        ("a:4222, b:4222", ["a:4222", "b:4222"], {}),
        ("nats://t0k@a:1,nats://t0k@b:2", ["nats://a:1", "nats://b:2"], {"token": "t0k"}),
        ("tls://me:p%40ss@a:1", ["tls://a:1"], {"user": "me", "password": "p@ss"}),
        ("t0k@a:1", ["a:1"], {"token": "t0k"}),
        ("nats://me:x@a:1,nats://b:2", ["nats://a:1", "nats://b:2"], {"user": "me", "password": "x"}),
        ("nats://x@a:1,nats://y@b:2", ["nats://x@a:1", "nats://y@b:2"], {}),
        ("nats://[::1]:4222", ["nats://[::1]:4222"], {}),
    ],
)
def test_a_login_is_taken_out_of_the_urls(url: str, servers: list[str], login: dict[str, str]) -> None:
    assert servers_and_login(url) == (servers, login)
