"""What a fault has in its hands: place, fleet, dice, a connection to each server, and what is to be undone later."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

import psycopg

from dispatcher.bus import Bus
from dispatcher.drill.fleet import Fleet
from dispatcher.drill.place import Place
from dispatcher.embedded.revival import Revival
from dispatcher.subjects import Subjects

__all__ = ["Fault", "Ground", "Struck"]

R = TypeVar("R")
_PATIENCE_SECONDS = 30.0
_LOOK_SECONDS = 0.5


@dataclass(frozen=True)
class Struck:
    """A fault that was really done."""

    fault: str
    target: str
    detail: dict[str, Any] = field(default_factory=dict)
    held: float = 0.0
    """Seconds for which the drill kept the cause up: they are not part of the recovery."""
    hit: float | None = None
    """The moment (seconds since the epoch) at which it really struck, if the drill had to wait for one."""


Fault = Callable[["Ground"], "Struck | None"]
"""Does one fault and returns what it did, or ``None`` when it could not be done or not be shown to have been done."""


class Ground:
    """Everything a fault may use."""

    def __init__(self, place: Place, fleet: Fleet, dice: random.Random, say: Callable[[str], None]) -> None:
        self.place, self.fleet, self.dice, self._say = place, fleet, dice, say
        self.subjects = Subjects(place.plan.namespace)
        self.done: list[dict[str, Any]] = []
        """Every fault, as it stands in faults.jsonl."""
        self.kept: dict[str, Any] = {}
        """What one fault leaves for the next one, for example a copy of the broker's store."""
        self._connection: psycopg.Connection[Any] | None = None
        self._ahead: float = self.rows("SELECT extract(epoch FROM clock_timestamp())::float8")[0][0] - time.time()
        """Of the database's clock: every other time of a drill is its."""
        self._allowed = 0.0
        self._portion = 0.0
        self._later: list[tuple[float, Callable[[], None]]] = []
        self._bus: Bus | None = None
        self._revival = None if place.own is None else Revival(place.own)
        self._looked_at = 0.0

    # doing ----------------------------------------------------------------------------------------------------------

    def strike(self, fault: Fault) -> bool:
        """Do one fault and write it down; returns whether it was done."""
        at = time.time()
        struck = fault(self)
        if struck is None:
            return False
        found = asdict(struck)
        at = (found.pop("hit") or at) + self._ahead
        entry = {"number": len(self.done) + 1, "at": at, "seconds": round(time.time() + self._ahead - at, 3), **found}
        self.done.append(entry)
        self.place.note_fault(entry)
        return True

    def hand_out(self, tasks: float, portion: float) -> None:
        """Let the client make so many tasks in all, and ``portion`` more whenever a fault asks for it."""
        self._allowed, self._portion = max(tasks, self._allowed), portion
        self.fleet.tell_client(int(self._allowed))

    def more_work(self, portions: int = 1) -> None:
        """A bit more for the client to do: some faults need work to be under way."""
        self.hand_out(min(self._allowed + portions * self._portion, self.place.plan.tasks), self._portion)

    def later(self, seconds: float, undo: Callable[[], None]) -> None:
        """Undo something after a while; :meth:`wait` does it."""
        self._later.append((time.monotonic() + seconds, undo))

    def wait(self, seconds: float) -> None:
        """Let time go by, undo what is due, and replace processes that ended by themselves."""
        until = time.monotonic() + seconds
        while True:
            now = time.monotonic()
            for item in [item for item in self._later if item[0] <= now]:
                self._later.remove(item)
                item[1]()
            self.fleet.tend()
            self._tend_servers(now)
            if now >= until:
                return
            time.sleep(min(0.05, max(0.0, until - now)))

    def _tend_servers(self, now: float) -> None:
        """Start a server again that ended by itself: nats-server may, over files that the drill has damaged."""
        if self._revival is None or now - self._looked_at < _LOOK_SECONDS:
            return
        self._looked_at = now
        for done in self._revival.look():
            self._say(done)
            if not self.kept.get("damaged"):
                self.fleet.wrong_ends.append(done)

    def until(self, condition: Callable[[], Any], seconds: float) -> bool:
        """Wait until something is true; ``False`` when it is not within ``seconds``."""
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                return False
            self.wait(0.05)
        return True

    def undo_everything(self) -> None:
        """Wait for everything that is to be undone."""
        while self._later:
            self.wait(0.05)

    # asking ---------------------------------------------------------------------------------------------------------

    def rows(self, sql: str, *params: Any) -> list[tuple[Any, ...]]:
        """Ask the database, past the proxy; waits for one that restarts."""
        until = time.monotonic() + _PATIENCE_SECONDS
        while True:
            try:
                if self._connection is None or self._connection.closed:
                    url = self.place.direct.database_url or ""
                    self._connection = psycopg.connect(
                        url, autocommit=True, application_name="drill", connect_timeout=5
                    )
                text = sql.format(s=self.place.plan.schema)
                return self._connection.execute(text.encode(), params or None).fetchall()
            except psycopg.OperationalError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.1)

    def with_bus(self, work: Callable[[Bus], Coroutine[Any, Any, R]]) -> R:
        """Ask NATS, past the proxy, on a connection that is kept."""

        async def run() -> R:
            if self._bus is None or self._bus.closed.is_set():
                self._bus = await Bus.connect(self.place.direct, name="drill", timeout=20.0)
            return await work(self._bus)

        return self.place.thread.run(run(), 40.0)

    def close(self) -> None:
        """Close the connections."""
        if self._connection is not None:
            self._connection.close()
        bus, self._bus = self._bus, None
        if bus is not None:
            with suppress(TimeoutError):
                self.place.thread.run(bus.close(), 10.0)
