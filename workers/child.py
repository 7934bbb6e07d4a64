"""A child process: runs one task at a time for the worker that started it, and ends when that worker does.

It is a new interpreter, never a fork: the worker has threads and an event loop, and a fork would copy their locks in
whatever state they are.  The handler has the main thread, so that signals and libraries that want it work; a thread of
its own listens to the worker.  Nothing here talks to PostgreSQL or NATS, except a handler's own transactions.
"""

from __future__ import annotations

import asyncio
import contextvars
import ctypes
import faulthandler
import importlib
import logging
import os
import queue
import random
import signal
import socket
import sys
import threading
import time
from contextlib import AsyncExitStack
from typing import Any
from uuid import UUID

from dispatcher.app import Dispatcher
from dispatcher.compose import Composed
from dispatcher.context import Context, current
from dispatcher.effects import Work
from dispatcher.logs import configure_logging
from dispatcher.options import Retry
from dispatcher.settings import Settings
from dispatcher.task import TaskType
from state.machine import State
from workers.capture import capture, line_of
from workers.effects import already_committed
from workers.frames import Frame, packed, receive
from workers.masked import storable
from workers.outcome import outcome_of_error, retry_of

__all__ = ["main"]

_PR_SET_PDEATHSIG = 1
_LONGEST_PROGRESS = 2000
_IDLE_SECONDS = 10.0
_log = logging.getLogger("dispatcher.child")


class Job:
    """The task that runs here.  It stands in ``dispatcher.context.current``."""

    def __init__(self, child: Child, kind: TaskType[Any, Any, Any], head: dict[str, Any]) -> None:
        self._child, self._kind = child, kind
        self.secrets: list[str] = []
        self.task: asyncio.Task[Any] | None = None
        now = time.monotonic()
        self.context = Context(
            task_id=UUID(head["task_id"]), type=kind.name, queue=head["queue"], attempt=head["attempt"],
            tries=head["tries"], max_attempts=head["max_tries"], headers=(head["meta"] or {}).get("headers", {}),
            report=self._report, resources=child.app.resources,
            soft_at=None if head["soft"] is None else now + head["soft"],
            hard_at=None if head["hard"] is None else now + head["hard"],
            work=Work(kind.home, kind.payload, UUID(head["task_id"]), head["attempt"], head["session"]),
        )  # fmt: skip

    def __call__(self) -> Context:
        """For ``dispatcher.context()``."""
        return self.context

    def log(self, record: logging.LogRecord) -> None:
        """Send a log line at once: a process that dies has told what it said before."""
        self._child.send({"is": "log", "line": line_of(record, self.secrets)})

    def _report(self, fraction: float, message: str | None) -> None:
        text = None if message is None else storable(str(message), self.secrets)[:_LONGEST_PROGRESS]
        self._child.send({"is": "progress", "fraction": fraction, "message": text})

    def stop(self, overdue: bool) -> None:
        """The worker wants it to end; called by the listening thread."""
        self.context.ask_to_stop(overdue=overdue)
        task = self.task
        if task is not None:
            task.get_loop().call_soon_threadsafe(task.cancel)


class Child:
    """Everything of this process."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._sending = threading.Lock()
        self._orders: queue.SimpleQueue[Frame] = queue.SimpleQueue()
        self._job: Job | None = None
        self.app = Dispatcher("not loaded")

    def send(self, head: dict[str, Any], body: bytes = b"") -> None:
        """Tell the worker something; any thread."""
        with self._sending:
            self._channel.sendall(packed(head, body))

    def listen(self) -> None:
        """In a thread: pass on what the worker says, and end with it whatever the handler is doing."""
        try:
            while (frame := receive(self._channel)) is not None:
                if frame[0]["do"] == "stop":
                    job = self._job
                    if job is not None and str(job.context.task_id) == frame[0]["task_id"]:
                        job.stop(frame[0]["overdue"])
                else:
                    self._orders.put(frame)
        finally:
            os._exit(1)

    def run(self) -> None:
        """Load the app, open its resources, run tasks until told to end."""
        setup, _ = self._orders.get()
        if setup["log_format"] is not None:
            configure_logging(setup["log_format"])
        self.app = _load(setup["place"])
        self.app.adopt(Settings(**setup["settings"]))
        if setup["log_lines"]:
            capture.start()
        with asyncio.Runner() as runner:
            stack = AsyncExitStack()
            runner.run(stack.enter_async_context(self.app.worker_life()))
            self.send({"is": "ready"})
            while (order := self._next(runner))[0]["do"] == "run":
                # a context of its own for each task, so that no variable of one handler reaches the next
                contextvars.copy_context().run(self._work, runner, *order)
            runner.run(stack.aclose())

    def _next(self, runner: asyncio.Runner) -> Frame:
        """What the worker wants next; who waits long for it gives connections of its handlers back."""
        try:
            return self._orders.get(timeout=_IDLE_SECONDS)
        except queue.Empty:
            runner.run(self.app.close())
            return self._orders.get()

    def _work(self, runner: asyncio.Runner, head: dict[str, Any], args: bytes) -> None:
        reply, body = self._outcome(runner, head, args)
        self._job = None
        self.send({"is": "done", **reply}, body)

    def _outcome(self, runner: asyncio.Runner, head: dict[str, Any], data: bytes) -> Frame:
        try:
            kind = self.app.task_type(head["type"])
            job = Job(self, kind, head)
            current.set(job)
            self._job = job
            args, kwargs = kind.decode(data)
            job.secrets = kind.secret_values(args, kwargs)
            if kind.is_async:
                result = runner.run(_caught(job, kind.function(*args, **kwargs)), context=contextvars.copy_context())
                if isinstance(result, _Raised):
                    raise result.error
            else:
                result = kind.function(*args, **kwargs)
            if isinstance(result, Composed):
                result = job.context.hand_over_blocking(result)
            if (committed := already_committed(job.context, result)) is not None:
                return {"committed": int(committed.to)}, b""
            seen = not kind.is_async and job.context.obeyed
            return {"to": int(State.SUCCEEDED), "obeyed": seen}, kind.encode_result(result)
        except BaseException as error:  # noqa: BLE001 - whatever leaves a handler is an outcome, not our failure
            if (committed := already_committed(self._job.context if self._job else None, error)) is not None:
                return {"committed": int(committed.to)}, b""
            if isinstance(error, asyncio.CancelledError):
                return {"stopped": True}, b""
            return self._failed(head, error), b""

    def _failed(self, head: dict[str, Any], error: BaseException) -> dict[str, Any]:
        kind = self.app.task_types.get(head["type"]) or self.app.aliases.get(head["type"])
        outcome = outcome_of_error(
            error,
            tries=head["tries"],
            max_tries=head["max_tries"],
            retry=retry_of(kind.retry if kind else Retry(), head["meta"]),
            random=random.random,
            secrets=self._job.secrets if self._job else (),
        )
        return {
            "to": int(outcome.to),
            "reason": None if outcome.reason is None else int(outcome.reason),
            "delay": outcome.delay,
            "refund": outcome.refund,
            "detail": outcome.detail,
        }


class _Raised:
    """An exception on its way out of the event loop, which SystemExit and KeyboardInterrupt would stop."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


async def _caught(job: Job, handler: Any) -> Any:
    job.task = asyncio.current_task()
    try:
        return await handler
    except BaseException as error:  # noqa: BLE001
        return _Raised(error)
    finally:
        job.task = None


def _load(place: dict[str, Any]) -> Dispatcher:
    for module in place["modules"]:
        importlib.import_module(module)
    app = getattr(importlib.import_module(place["module"]), place["attribute"])
    assert isinstance(app, Dispatcher)
    return app


def _belong_to_parent() -> None:
    """End with the worker, be the first to go when memory is short, and leave signals to the worker.

    A terminal or a service manager may send its signals to the whole group: the worker drains and needs us meanwhile.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    if not sys.platform.startswith("linux"):
        return  # the closed channel must do
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("800")
    except OSError:
        pass  # nothing but a preference


def main(fd: int) -> None:
    """Serve the worker at the other end of ``fd``."""
    _belong_to_parent()
    faulthandler.enable()
    with socket.socket(fileno=fd) as channel:
        child = Child(channel)
        threading.Thread(target=child.listen, name="dispatcher-listen", daemon=True).start()
        try:
            child.run()
        except Exception:
            _log.exception("the child process cannot go on")
            logging.shutdown()
            os._exit(1)
        logging.shutdown()
        sys.stdout.flush()
        os._exit(0)  # threads that a handler left behind must not hold up the end
