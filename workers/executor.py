"""Runs claimed attempts: coroutines on the event loop, plain functions in threads, never more at a time than slots."""

from __future__ import annotations

import asyncio
import contextvars
import random
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any
from uuid import UUID

from dispatcher.compose import Composed
from dispatcher.context import Context, current
from dispatcher.options import Retry
from state.machine import Reason, State
from workers.attempt import Attempt, Outcome, Stop
from workers.effects import already_committed, work_of
from workers.inputs import Inputs, needs_inputs
from workers.outcome import HandlerTimeout, outcome_of_error, outcome_of_stop, storable

__all__ = ["Executor"]

_LONGEST_PROGRESS = 2000


class Executor:
    """``finished(attempt)`` is called once per attempt, with its outcome set."""

    def __init__(
        self,
        slots: int,
        queue_names: dict[int, str],
        finished: Callable[[Attempt], None],
        progress: Callable[[Attempt, float, str | None], None],
        inputs: Inputs,
    ) -> None:
        self.slots = slots
        self._queue_names = queue_names
        self._finished, self._progress, self._inputs = finished, progress, inputs
        self._threads = ThreadPoolExecutor(slots, thread_name_prefix="dispatcher-handler")
        self.ready: deque[Attempt] = deque()
        self.running: dict[UUID, Attempt] = {}
        """Every attempt this process holds, waiting for a slot or started, by task id."""
        self.executing = 0
        self._loop = asyncio.get_running_loop()

    def submit(self, attempts: list[Attempt]) -> None:
        """Start as many as there are free slots; the others start as slots become free."""
        for attempt in attempts:
            self.running[attempt.task_id] = attempt
        self.ready.extend(attempts)
        self._fill()

    def _fill(self) -> None:
        ready = self.ready
        while ready and self.executing < self.slots:
            attempt = ready.popleft()
            self.executing += 1
            attempt.job = self._loop.create_task(self._run(attempt))

    async def _run(self, attempt: Attempt) -> None:
        attempt.started_at = time.monotonic()
        free_slot = True
        args: tuple[Any, ...] = ()
        kwargs: dict[str, Any] = {}
        try:
            timeout = attempt.meta.get("timeout") if attempt.meta else None
            timeout = attempt.task_type.timeout if timeout is None else float(timeout)
            if needs_inputs(attempt):
                await self._inputs.fill(attempt)
            args, kwargs = attempt.task_type.decode(attempt.args)
            current.set(partial(self._context, attempt))
            if attempt.task_type.is_async:
                result = await self._on_loop(attempt, args, kwargs, timeout)
            else:
                self._context(attempt)  # made before its thread can ask for it: there must be only one
                attempt.in_thread = True
                future = self._in_thread(attempt, args, kwargs)
                if not (await asyncio.wait({future}, timeout=timeout))[0]:
                    free_slot = False  # the thread cannot be ended; its slot is free when it is
                    future.add_done_callback(self._thread_ended)
                    self._context(attempt).ask_to_stop()
                    raise HandlerTimeout(f"still running after {timeout:g} s")
                result = future.result()
            if isinstance(result, Composed):
                result = await self._context(attempt).hand_over(result)
            outcome = already_committed(attempt, result) or self._returned(attempt, result)
        except BaseException as error:  # noqa: BLE001 - whatever leaves a handler is an outcome, not our failure
            try:
                outcome = already_committed(attempt, error) or self._raised(attempt, error, args, kwargs)
            except Exception as broken:  # noqa: BLE001 - options that somebody wrote by hand, for example
                detail = {"type": type(broken).__name__, "message": "the task's options cannot be read"}
                outcome = Outcome(State.FAILED, reason=Reason.UNDECODABLE, detail=detail)
        self._end(attempt, outcome, free_slot)

    async def _on_loop(
        self, attempt: Attempt, args: tuple[Any, ...], kwargs: dict[str, Any], timeout: float | None
    ) -> Any:
        function = attempt.task_type.function
        if timeout is None:
            return await function(*args, **kwargs)
        scope = asyncio.timeout(timeout)
        try:
            async with scope:
                return await function(*args, **kwargs)
        except TimeoutError:
            if scope.expired():
                raise HandlerTimeout(f"still running after {timeout:g} s") from None
            raise

    def _in_thread(self, attempt: Attempt, args: tuple[Any, ...], kwargs: dict[str, Any]) -> asyncio.Future[Any]:
        call = partial(_call, attempt.task_type.function, args, kwargs)
        return self._loop.run_in_executor(self._threads, contextvars.copy_context().run, call)

    def _thread_ended(self, future: asyncio.Future[Any]) -> None:
        if not future.cancelled():
            future.exception()  # retrieved on purpose: its outcome was settled at the timeout
        self.executing -= 1
        self._fill()

    def _context(self, attempt: Attempt) -> Context:
        """The attempt's context, made when first asked for."""
        if attempt.context is None:
            attempt.context = Context(
                task_id=attempt.task_id,
                type=attempt.task_type.name,
                queue=self._queue_names.get(attempt.queue_id, ""),
                attempt=attempt.number,
                tries=attempt.tries,
                max_attempts=attempt.max_tries,
                headers=attempt.meta.get("headers", {}) if attempt.meta else {},
                report=partial(self._report, attempt),
                work=work_of(attempt),
            )
        return attempt.context

    def _report(self, attempt: Attempt, fraction: float, message: str | None) -> None:
        if message is not None:
            secrets = attempt.task_type.secret_values(*attempt.task_type.decode(attempt.args))
            message = storable(str(message), secrets)[:_LONGEST_PROGRESS]
        self._progress(attempt, fraction, message)

    def _returned(self, attempt: Attempt, result: Any) -> Outcome:
        """A plain function that saw that it should stop and returned was stopped; any other return is a result."""
        if attempt.stop is not None and attempt.in_thread and attempt.context is not None and attempt.context.obeyed:
            return outcome_of_stop(attempt.stop, None)
        return Outcome(State.SUCCEEDED, result=attempt.task_type.encode_result(result))

    def _raised(self, attempt: Attempt, error: BaseException, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Outcome:
        if isinstance(error, asyncio.CancelledError):
            if attempt.stop is not None:
                return outcome_of_stop(attempt.stop, None)
            error = RuntimeError("the handler was cancelled from inside")
        retry = attempt.task_type.retry
        if attempt.meta and "retry" in attempt.meta:
            retry = Retry.from_meta(attempt.meta["retry"])
        return outcome_of_error(
            error,
            tries=attempt.tries,
            max_tries=attempt.max_tries,
            retry=retry,
            random=random.random,
            secrets=attempt.task_type.secret_values(args, kwargs),
        )

    def _end(self, attempt: Attempt, outcome: Outcome, free_slot: bool) -> None:
        if free_slot:
            self.executing -= 1
        if attempt.outcome is None:
            attempt.outcome = outcome
            self._finished(attempt)
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
            self._end(attempt, outcome_of_stop(stop, None), free_slot=True)
        elif attempt.in_thread or not attempt.task_type.is_async:
            self._context(attempt).ask_to_stop()
        else:
            attempt.job.cancel()

    def abandon(self, attempt: Attempt) -> None:
        """Settle a plain function that does not stop as given back; what its thread does later is ignored."""
        if attempt.outcome is None:
            attempt.outcome = outcome_of_stop(Stop.RELEASE, None)
            self._finished(attempt)

    def close(self) -> None:
        """Let the threads end with the process."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _call(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    try:
        return function(*args, **kwargs)
    except StopIteration as error:  # a future cannot carry it: the attempt would never end
        raise RuntimeError("the handler raised StopIteration") from error
