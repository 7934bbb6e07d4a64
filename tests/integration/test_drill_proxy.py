"""The proxy of the drills does to connections what it says."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import psycopg
import pytest

from dispatcher.drill.proxy import LoopThread, Proxy
from tests.fixtures.servers import Servers


@pytest.fixture
def echo() -> Iterator[int]:
    """The port of a server that sends everything back."""
    listener = socket.create_server(("127.0.0.1", 0))

    def answer(connection: socket.socket) -> None:
        with connection:
            try:
                while data := connection.recv(4096):
                    connection.sendall(data)
            except OSError:
                pass

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield int(listener.getsockname()[1])
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(5)


@pytest.fixture
def thread() -> Iterator[LoopThread]:
    started = LoopThread()
    yield started
    started.close()


@pytest.fixture
def proxy(echo: int, thread: LoopThread) -> Iterator[Proxy]:
    made = Proxy(thread, echo)
    yield made
    made.close()


def connected(proxy: Proxy) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", proxy.port), timeout=5)
    assert said(client, b"hello") == b"hello"
    return client


def said(client: socket.socket, data: bytes) -> bytes:
    client.sendall(data)
    return client.recv(4096)


def assert_ended(client: socket.socket) -> None:
    try:
        assert client.recv(1) == b""
    except ConnectionResetError:
        pass
    client.close()


def test_it_passes_everything_on_and_resets(proxy: Proxy) -> None:
    first = connected(proxy)
    assert proxy.reset() == 1
    assert_ended(first)
    connected(proxy).close()


def test_a_cut_ends_connections_and_refuses_new_ones_until_it_heals(proxy: Proxy) -> None:
    first = connected(proxy)
    assert proxy.cut() == 1
    assert_ended(first)
    assert_ended(socket.create_connection(("127.0.0.1", proxy.port), timeout=5))
    proxy.heal()
    connected(proxy).close()


def test_half_open_connections_stand_and_carry_nothing(proxy: Proxy) -> None:
    first = connected(proxy)
    assert proxy.half_open() == 1
    first.sendall(b"lost")
    first.settimeout(0.2)
    with pytest.raises(TimeoutError):
        first.recv(1)
    connected(proxy).close()
    proxy.heal()
    first.settimeout(5)
    assert_ended(first)


def test_slow_connections_take_longer(proxy: Proxy) -> None:
    client = connected(proxy)
    proxy.slow(0.1)
    began = time.monotonic()
    assert said(client, b"slow") == b"slow"
    assert time.monotonic() - began >= 0.1
    client.close()


def test_a_statement_whose_answer_is_swallowed_was_carried_out(servers: Servers, thread: LoopThread) -> None:
    parts = psycopg.conninfo.conninfo_to_dict(servers.database_url)
    proxy = Proxy(thread, int(str(parts["port"])))
    url = psycopg.conninfo.make_conninfo(servers.database_url, port=proxy.port)
    try:
        with psycopg.connect(servers.database_url, autocommit=True) as direct:
            other = psycopg.connect(url, autocommit=True, application_name="somebody else")
            mine = psycopg.connect(url, autocommit=True, application_name="drill client")
            direct.execute("CREATE TABLE swallowed (n int)")
            proxy.swallow("drill client", b"INSERT")
            other.execute("INSERT INTO swallowed VALUES (1)")
            mine.execute("SELECT 1")
            with pytest.raises(psycopg.OperationalError):
                mine.execute("INSERT INTO swallowed VALUES (2)")
            assert proxy.swallowed == ["drill client"]
            assert direct.execute("SELECT n FROM swallowed ORDER BY n").fetchall() == [(1,), (2,)]
            other.execute("SELECT 1")
            direct.execute("DROP TABLE swallowed")
            other.close()
            mine.close()
    finally:
        proxy.close()
