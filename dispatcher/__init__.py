"""Create tasks inside your own database transaction; workers get them pushed when it commits.

    from dispatcher import Dispatcher, Retry

    app = Dispatcher("shop")

    @app.task(queue="billing", retry=Retry(max_attempts=5), timeout=30)
    async def charge(order_id: int, *, currency: str = "EUR") -> Receipt: ...

    with Session(engine) as session, session.begin():
        task = charge.enqueue(session, 42)
    receipt = task.wait_blocking(timeout=10)

This is everything a service imports.  Importing it loads neither a database library, nor NATS, nor pydantic: those come
with the first use.
"""

from __future__ import annotations

from dispatcher._layout import check_layout

check_layout()

from dispatcher.app import Dispatcher  # noqa: E402 - a foreign package in the place of ours gets its own message first
from dispatcher.attempt_log import AttemptLog, LogLine  # noqa: E402
from dispatcher.call import Call  # noqa: E402
from dispatcher.compose import Composed, group  # noqa: E402
from dispatcher.context import Context, context  # noqa: E402
from dispatcher.errors import (  # noqa: E402
    ArgumentsInvalid,
    ArgumentsTooLarge,
    CallError,
    ConfigurationError,
    DispatcherError,
    FlowInvalid,
    FlowNotFound,
    KeyConflict,
    NotAwaited,
    NotCommitted,
    NotFinished,
    OptionError,
    OutboxFull,
    QueueNameInvalid,
    ResultUnserialisable,
    RunAtNaive,
    SchemaError,
    StaleAttempt,
    TaskCancelled,
    TaskFailed,
    TaskNotFound,
    Undecodable,
    UnknownLane,
    UnknownTask,
    WaitError,
    WaitTimeout,
)
from dispatcher.flow_info import FlowInfo, FlowInUse  # noqa: E402
from dispatcher.graph import Flow  # noqa: E402
from dispatcher.handle import Task  # noqa: E402
from dispatcher.lifecycle import Resource  # noqa: E402
from dispatcher.options import CallOptions, TaskOptions  # noqa: E402
from dispatcher.outcomes import Cancel, RetryIn, Snooze  # noqa: E402
from dispatcher.retry import Retry  # noqa: E402
from dispatcher.secret import Secret  # noqa: E402
from dispatcher.task import TaskType  # noqa: E402
from dispatcher.task_info import TaskInfo  # noqa: E402
from dispatcher.tx import AsyncTx, SyncTx  # noqa: E402
from state.machine import State  # noqa: E402

__all__ = [
    "ArgumentsInvalid",
    "ArgumentsTooLarge",
    "AsyncTx",
    "AttemptLog",
    "Call",
    "CallError",
    "CallOptions",
    "Cancel",
    "Composed",
    "ConfigurationError",
    "Context",
    "Dispatcher",
    "DispatcherError",
    "Flow",
    "FlowInUse",
    "FlowInfo",
    "FlowInvalid",
    "FlowNotFound",
    "KeyConflict",
    "LogLine",
    "NotAwaited",
    "NotCommitted",
    "NotFinished",
    "OptionError",
    "OutboxFull",
    "QueueNameInvalid",
    "Resource",
    "ResultUnserialisable",
    "Retry",
    "RetryIn",
    "RunAtNaive",
    "SchemaError",
    "Secret",
    "Snooze",
    "StaleAttempt",
    "State",
    "SyncTx",
    "Task",
    "TaskCancelled",
    "TaskFailed",
    "TaskInfo",
    "TaskNotFound",
    "TaskOptions",
    "TaskType",
    "Undecodable",
    "UnknownLane",
    "UnknownTask",
    "WaitError",
    "WaitTimeout",
    "context",
    "group",
]
