"""Runs claimed attempts: coroutines on the event loop, plain functions in threads, what asks for it in child processes.

Never more at a time than slots.  A handler that is not back some moments after its limit loses its slot to others.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any
from uuid import UUID

from dispatcher.compose import Composed
from dispatcher.context import current
from dispatcher.lifecycle import Resource
from dispatcher.settings import Settings
from state.machine import Reason, State
from workers.attempt import Attempt, Outcome, Stop
from workers.contexts import Contexts
from workers.eager import started
from workers.effects import already_committed, returned
from workers.inputs import Inputs, needs_inputs
from workers.limits import NONE, Limits, limits_of
from workers.outcome import ProcessDied, outcome_of_error, outcome_of_stop, retry_of, within_deadline
from workers.processes import Processes
from workers.threads import Threads

__all__ = ["Executor"]

_AT_A_TIME_SECONDS = 0.005
"""For so long handlers are started in a row before anything else gets its turn."""
_GRACE_SECONDS = 1.0
"""After its limit, what a handler gets to end before its slot is given to others."""


class Executor:
    """``finished(attempt)`` is called once per attempt, with its outcome set; ``too_many_stuck()`` when more handlers
    than there are slots do not come back."""

    def __init__(
        self,
        slots: int,
        queue_names: dict[int, str],
        settings: Settings,
        resources: Mapping[str, Resource[Any]],
        finished: Callable[[Attempt], None],
        progress: Callable[[Attempt, float, str | None], None],
        too_many_stuck: Callable[[], None],
        inputs: Inputs,
    ) -> None:
        self.slots = slots
        self._finished, self._too_many_stuck, self._inputs = finished, too_many_stuck, inputs
        self._contexts = Contexts(queue_names, settings, resources, progress)
        self._threads = Threads(slots, spare=slots + 1)
        self.processes: Processes | None = None
        """Set by the worker when a task type wants them."""
        self.ready: deque[Attempt] = deque()
        self.running: dict[UUID, Attempt] = {}
        """Every attempt this process holds, waiting for a slot or started, by task id."""
        self.executing = 0
        """Slots in use."""
        self.stuck: set[Attempt] = set()
        """Handlers that ran over their limit and still run, without a slot."""
        self._loop = asyncio.get_running_loop()
        self._filling = False

    def submit(self, attempts: list[Attempt]) -> None:
        """Start as many as there are free slots; the others start as slots become free."""
        for attempt in attempts:
            attempt.home = self._contexts
            self.running[attempt.task_id] = attempt
        self.ready.extend(attempts)
        self._fill()

    def _fill(self) -> None:
        """Give free slots to those that wait.  What ends before it first waits for something calls this again."""
        if self._filling:
            return
        self._filling, ready = True, self.ready
        until = self._loop.time() + _AT_A_TIME_SECONDS
        while ready and self.executing < self.slots:
            attempt = ready.popleft()
            self.executing += 1
            attempt.has_slot = True
            attempt.job = started(self._loop, self._run(attempt))
            if self._loop.time() > until:
                self._loop.call_soon(self._fill)
                break
        self._filling = False

    async def _run(self, attempt: Attempt) -> None:
        attempt.started_at = time.monotonic()
        kind = attempt.task_type
        args: tuple[Any, ...] = ()
        kwargs: dict[str, Any] = {}
        limits, late = NONE, False
        try:
            if attempt.meta or kind.timed:
                limits = await self._prepared(attempt)
            if kind.in_process:
                current.set(attempt)
                assert self.processes is not None
                outcome = await self.processes.run(attempt, limits, partial(_restarted, attempt))
            else:
                args, kwargs = kind.decode(attempt.args)
                current.set(attempt)
                if not kind.is_async:
                    outcome, late = await self._in_thread(attempt, args, kwargs, limits)
                else:
                    if limits.hard_at is None and limits.soft_at is None:
                        result = await kind.function(*args, **kwargs)
                    else:
                        result = await self._limited(attempt, args, kwargs, limits)
                    if isinstance(result, Composed):
                        result = await attempt().hand_over(result)
                    outcome = returned(attempt, result)
        except BaseException as error:  # noqa: BLE001 - whatever leaves a handler is an outcome, not our failure
            outcome = self._raised(attempt, error, args, kwargs, limits)
        if limits.deadline_at is not None:
            left = limits.deadline_at - time.monotonic()
            outcome = within_deadline(outcome, left, last_try=attempt.tries >= attempt.max_tries)
        self._end(attempt, outcome, late)

    async def _prepared(self, attempt: Attempt) -> Limits:
        """How long it may run; afterwards its arguments are complete."""
        limits = limits_of(attempt)
        if limits.deadline_at is not None and limits.deadline_at <= attempt.started_at:
            raise limits.deadline_over()
        if needs_inputs(attempt):
            await self._inputs.fill(attempt)
        return limits

    # on the event loop ----------------------------------------------------------------------------------------------

    async def _limited(self, attempt: Attempt, args: tuple[Any, ...], kwargs: dict[str, Any], limits: Limits) -> Any:
        """Cancel at the soft timeout, cancel again at the limit, and give up on it a little later."""
        function, now = attempt.task_type.function, time.monotonic()
        watch = None
        if limits.hard_at is not None:
            watch = self._loop.call_later(limits.hard_at - now, self._overrun, attempt, limits)
        scope = asyncio.timeout(None if limits.soft_at is None else limits.soft_at - now)
        try:
            async with scope:
                return await function(*args, **kwargs)
        except TimeoutError:
            if scope.expired():
                raise limits.soft_over() from None
            raise
        finally:
            if watch is not None:
                watch.cancel()

    def _overrun(self, attempt: Attempt, limits: Limits) -> None:
        if attempt.stop is None:
            attempt.stop = Stop.TIMEOUT
        if attempt.job is not None and not attempt.job.done():
            attempt.job.cancel()
            self._loop.call_later(_GRACE_SECONDS, self._give_up, attempt, limits)

    def _give_up(self, attempt: Attempt, limits: Limits) -> None:
        """A coroutine that swallows its cancellation: settle it; whatever it returns later is ignored."""
        if attempt.outcome is None and attempt.has_slot:
            attempt.outcome = self._raised(attempt, asyncio.CancelledError(), (), {}, limits)
            self._finished(attempt)
            self._give_slot(attempt)

    # in threads -----------------------------------------------------------------------------------------------------

    async def _in_thread(
        self, attempt: Attempt, args: tuple[Any, ...], kwargs: dict[str, Any], limits: Limits
    ) -> tuple[Outcome, bool]:
        """The outcome, and whether the thread still runs.  It is settled at its limit, the slot waits for the grace."""
        context = attempt()  # made before its thread can ask for it: there must be only one
        attempt.in_thread = True
        future = self._threads.start(attempt.task_type.function, args, kwargs)
        now = time.monotonic()
        soft = None
        if limits.soft_at is not None:
            soft = self._loop.call_later(limits.soft_at - now, context.ask_to_stop)
        timeout = None if limits.hard_at is None else max(0.0, limits.hard_at - now)
        done, _ = await asyncio.wait({future}, timeout=timeout)
        if soft is not None:
            soft.cancel()
        if done:
            result = future.result()
            if attempt.stop is not None and context.obeyed and not context.completed:
                return outcome_of_stop(attempt.stop, None), False
            if isinstance(result, Composed):
                result = await context.hand_over(result)
            return returned(attempt, result), False
        future.add_done_callback(partial(self._thread_ended, attempt))
        context.ask_to_stop()
        self._loop.call_later(_GRACE_SECONDS, self._give_slot, attempt)
        return self._raised(attempt, limits.over(), args, kwargs, limits), True

    def _thread_ended(self, attempt: Attempt, future: asyncio.Future[Any]) -> None:
        if not future.cancelled():
            future.exception()  # retrieved on purpose: its outcome was settled at the limit
        self._free(attempt)
        self._fill()

    # the end of an attempt ------------------------------------------------------------------------------------------

    def _raised(
        self, attempt: Attempt, error: BaseException, args: tuple[Any, ...], kwargs: dict[str, Any], limits: Limits
    ) -> Outcome:
        if (committed := already_committed(attempt.context, error)) is not None:
            return committed
        if isinstance(error, (asyncio.CancelledError, ProcessDied)) and attempt.stop is not None:
            if attempt.stop is not Stop.TIMEOUT:
                return outcome_of_stop(attempt.stop, None)
            error = limits.over()
        elif isinstance(error, asyncio.CancelledError):
            error = RuntimeError("the handler was cancelled from inside")
        try:
            return outcome_of_error(
                error,
                tries=attempt.tries,
                max_tries=attempt.max_tries,
                retry=retry_of(attempt.task_type.retry, attempt.meta),
                random=random.random,
                secrets=attempt.task_type.secret_values(args, kwargs),
            )
        except Exception as broken:  # noqa: BLE001 - options that somebody wrote by hand, for example
            detail = {"type": type(broken).__name__, "message": "the task's options cannot be read"}
            return Outcome(State.FAILED, reason=Reason.UNDECODABLE, detail=detail)

    def _end(self, attempt: Attempt, outcome: Outcome, late: bool = False) -> None:
        if not late:
            self._free(attempt)
        if attempt.outcome is None:
            attempt.outcome = outcome
            self._finished(attempt)
        self._fill()

    def _free(self, attempt: Attempt) -> None:
        if attempt.has_slot:
            attempt.has_slot = False
            self.executing -= 1
        else:
            self.stuck.discard(attempt)

    def _give_slot(self, attempt: Attempt) -> None:
        """Its handler does not come back: somebody else gets the slot, as long as not too many are like that."""
        if attempt.has_slot:
            self._free(attempt)
            self.stuck.add(attempt)
            if len(self.stuck) > self.slots:
                self._too_many_stuck()
            else:
                self._fill()

    def stop_one(self, attempt: Attempt, stop: Stop) -> None:
        """Ask one attempt to stop: a coroutine is cancelled, a plain function is told, a waiting one never starts."""
        if attempt.outcome is not None or attempt.stop is not None:
            return
        attempt.stop = stop
        if attempt.job is None:
            self.ready.remove(attempt)
            attempt.outcome = outcome_of_stop(stop, None)
            self._finished(attempt)
        elif attempt.started_at == 0.0:  # its task was made but never ran: nobody would catch the cancellation
            attempt.job.cancel()
            self._end(attempt, outcome_of_stop(stop, None))
        elif attempt.task_type.in_process:
            assert self.processes is not None
            self.processes.stop(attempt, stop)
        elif attempt.task_type.is_async:
            attempt.job.cancel()
        else:
            attempt().ask_to_stop()

    def abandon(self, attempt: Attempt) -> None:
        """Settle what does not stop as given back; what its handler does later is ignored."""
        if attempt.outcome is None:
            attempt.outcome = already_committed(attempt.context, None) or outcome_of_stop(Stop.RELEASE, None)
            self._finished(attempt)
        if attempt.task_type.in_process:
            assert self.processes is not None
            self.processes.kill(attempt)
        elif attempt.task_type.is_async and attempt.has_slot:
            self.stuck.add(attempt)

    async def close(self) -> None:
        """End the children; let the threads end with the process."""
        if self.processes is not None:
            await self.processes.close()
        self._threads.close()


def _restarted(attempt: Attempt) -> Limits:
    """It has got its child process only now."""
    attempt.started_at = time.monotonic()
    return limits_of(attempt)
