"""The process pool: child processes made when they are needed, kept, replaced, and killed one by one.

A handler that takes its process with it, by a segmentation fault, ``os._exit`` or the kernel's want of memory, costs
its own task one try and nobody else anything.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from typing import Any

from dispatcher.app import Dispatcher
from dispatcher.settings import Settings
from state.machine import Reason, State
from workers.attempt import Attempt, Home, Outcome, Stop
from workers.limits import Limits
from workers.outcome import outcome_of_stop
from workers.place import place_of
from workers.process import Process

__all__ = ["Processes"]

_CANCEL_SECONDS = 0.06
"""What a handler gets to end in order after a cancel, before its process is killed: all in all 100 ms."""
_RELEASE_SECONDS = 1.0
_SETTINGS = {"database_url", "direct_database_url", "nats_url", "db_schema", "namespace"}
"""What a child must have as its worker has it, for its handlers' transactions; the rest is in the environment."""
_CLOSE_SECONDS = 5.0


class Processes:
    """At most ``settings.processes`` children, one task at a time each.  Raises ``ConfigurationError``, see place."""

    def __init__(
        self,
        app: Dispatcher,
        settings: Settings,
        queue_names: dict[int, str],
        progress: Callable[[Attempt, float, str | None], None],
        log_format: str | None,
    ) -> None:
        self._queue_names, self._progress = queue_names, progress
        self._recycle_after = settings.process_recycle_after
        self._most_memory = None if settings.process_memory is None else settings.process_memory << 20
        self._setup = {
            "do": "open", "place": place_of(app), "log_format": log_format, "log_lines": settings.log_lines,
            "settings": settings.model_dump(include=_SETTINGS, exclude_none=True),
        }  # fmt: skip
        self._free = asyncio.Semaphore(settings.processes or os.cpu_count() or 1)
        self._idle: list[Process] = []
        self._busy: dict[Attempt, Process] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()

    @property
    def pids(self) -> list[int]:
        """The children that run or wait for a task."""
        return [child.pid for child in (*self._idle, *self._busy.values())]

    async def run(self, attempt: Attempt, limits: Limits, started: Callable[[], Limits]) -> Outcome:
        """Run an attempt to its end in a child.  Raises what ends it otherwise, ``ProcessDied`` among others.

        While it waits for a child only the deadline counts; ``started`` gives the limits that hold from its start on.
        """
        left = None if limits.deadline_at is None else limits.deadline_at - time.monotonic()
        try:
            async with asyncio.timeout(left):
                await self._free.acquire()
        except TimeoutError:
            raise limits.deadline_over() from None
        try:
            child = await self._child()
            self._busy[attempt] = child
            try:
                return await self._run_in(child, attempt, started())
            finally:
                del self._busy[attempt]
                self._put_away(child)
        finally:
            self._free.release()

    async def _child(self) -> Process:
        while self._idle:
            child = self._idle.pop()
            if child.alive:
                return child
            self._retire(child)
        return await Process.start(self._setup)

    async def _run_in(self, child: Process, attempt: Attempt, limits: Limits) -> Outcome:
        now = time.monotonic()
        task_id = str(attempt.task_id)
        head = {
            "do": "run", "task_id": task_id, "type": attempt.task_type.name, "attempt": attempt.number,
            "queue": self._queue_names.get(attempt.queue_id, ""), "tries": attempt.tries,
            "max_tries": attempt.max_tries, "meta": attempt.meta, "session": attempt.session.id,
            "soft": None if limits.soft_at is None else limits.soft_at - now,
            "hard": None if limits.hard_at is None else limits.hard_at - now,
        }  # fmt: skip
        timers = []
        if limits.soft_at is not None:
            timers.append(self._loop.call_later(limits.soft_at - now, child.tell_to_stop, task_id, True))
        if limits.hard_at is not None:
            timers.append(self._loop.call_later(limits.hard_at - now, self._overrun, attempt))
        try:
            reply, result = await child.run(head, attempt.args, lambda said: self._heard(attempt, said))
        finally:
            for timer in timers:
                timer.cancel()
        if "committed" in reply:
            return Outcome(State(reply["committed"]), committed=True)
        if "stopped" in reply:
            if attempt.stop is None and limits.soft_at is not None and time.monotonic() >= limits.soft_at:
                raise limits.soft_over()
            raise asyncio.CancelledError
        if attempt.stop is not None and reply.get("obeyed"):
            return outcome_of_stop(attempt.stop, None)
        return _told(reply, result)

    def _heard(self, attempt: Attempt, said: dict[str, Any]) -> None:
        if said["is"] == "progress":
            self._progress(attempt, said["fraction"], said["message"])
            return
        if attempt.lines is None:
            home: Home | None = attempt.home
            assert home is not None
            attempt.lines = home.make_lines(attempt)
        attempt.lines.add(said["line"])

    # ending ---------------------------------------------------------------------------------------------------------

    def stop(self, attempt: Attempt, stop: Stop) -> None:
        """Ask for an end, and enforce it soon; one that still waits for a child never starts."""
        child = self._busy.get(attempt)
        if child is None:
            assert attempt.job is not None
            attempt.job.cancel()
        elif stop is Stop.FENCE:
            child.kill()
        else:
            child.tell_to_stop(str(attempt.task_id), False)
            patience = _CANCEL_SECONDS if stop is Stop.CANCEL else _RELEASE_SECONDS
            self._loop.call_later(patience, self.kill, attempt, child)

    def kill(self, attempt: Attempt, child: Process | None = None) -> None:
        """End the child that runs this attempt, if it still does."""
        found = self._busy.get(attempt)
        if found is not None and child in (None, found):
            found.kill()

    def _overrun(self, attempt: Attempt) -> None:
        if attempt.stop is None:
            attempt.stop = Stop.TIMEOUT
        self.kill(attempt)

    def check_memory(self) -> None:
        """Kill the children that use more than they may; looked at several times a second."""
        if self._most_memory is None:
            return
        for child in self._busy.values():
            used = child.memory()
            if used is not None and used > self._most_memory and child.memory_at_kill is None:
                child.memory_at_kill = used
                child.kill()

    def _put_away(self, child: Process) -> None:
        if not child.alive or self._is_worn(child):
            self._retire(child)
        else:
            self._idle.append(child)

    def _is_worn(self, child: Process) -> bool:
        """Ran enough tasks, or holds so much memory that the next task would be blamed for what earlier ones left."""
        if self._recycle_after is not None and child.tasks >= self._recycle_after:
            return True
        used = None if self._most_memory is None else child.memory()
        return used is not None and self._most_memory is not None and used > self._most_memory * 4 // 5

    def _retire(self, child: Process) -> None:
        closing = self._loop.create_task(child.close(_CLOSE_SECONDS))
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """End every child: idle ones in order."""
        for child in self._busy.values():
            child.kill()
        for child in self._idle:
            self._retire(child)
        self._idle.clear()
        if self._closing:
            await asyncio.wait(self._closing)


def _told(reply: dict[str, Any], result: bytes) -> Outcome:
    """The outcome as the child says it."""
    if reply["to"] == State.SUCCEEDED:
        return Outcome(State.SUCCEEDED, result=result)
    reason = None if reply["reason"] is None else Reason(reply["reason"])
    return Outcome(State(reply["to"]), None, reason, reply["delay"], reply["refund"], reply["detail"])
