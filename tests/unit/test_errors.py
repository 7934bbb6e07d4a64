from __future__ import annotations

import inspect
import pickle
import re
from uuid import uuid4

import pytest

from dispatcher import errors
from dispatcher.errors import DispatcherError, did_you_mean

EXAMPLES = [
    errors.ArgumentsInvalid("shop.f", [{"loc": ("x",), "type": "missing", "msg": "required"}]),
    errors.ArgumentsTooLarge("shop.f", 2_000_000, 1_048_576),
    errors.BusError(400, 10058, "stream name already in use"),
    errors.BusUnavailable("NATS is away"),
    errors.KeyConflict("shop.f", "order-1", uuid4()),
    errors.NotAwaited(["enqueue of 'shop.f'"]),
    errors.NotCommitted(uuid4()),
    errors.NotFinished(uuid4(), "running"),
    errors.QueueNameInvalid("a.b", "lane"),
    errors.RunAtNaive(),
    errors.TaskCancelled(uuid4(), "by_request", None),
    errors.TaskFailed(uuid4(), "exhausted", "ValueError: no\n"),
    errors.TaskNotFound(uuid4()),
    errors.UnknownTask("shop.g", ["shop.f"]),
    errors.WaitTimeout(uuid4(), 2.5),
]


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_errors_are_one_line_and_survive_pickling(error: DispatcherError) -> None:
    assert "\n" not in str(error)
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is type(error)
    assert str(back) == str(error)
    assert vars(back) == vars(error)


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    classes = {
        name: cls
        for name, cls in vars(errors).items()
        if inspect.isclass(cls) and issubclass(cls, DispatcherError) and name in errors.__all__
    }
    drawn: dict[str, str | None] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"^((?:│   |    )*(?:├── |└── )?)(\w+)(?:  |$)", line)
        if match:
            path[len(match[1]) // 4 :] = [match[2]]
            drawn[match[2]] = path[-2] if len(path) > 1 else None
    assert drawn == {name: None if cls is DispatcherError else _parent(cls) for name, cls in classes.items()}


def _parent(cls: type) -> str:
    drawn = [base for base in cls.__bases__ if base.__name__ in errors.__all__]
    return drawn[0].__name__ if drawn else DispatcherError.__name__


def test_did_you_mean() -> None:
    assert did_you_mean("qeue", ["queue", "lane"]) == "; did you mean 'queue'?"
    assert did_you_mean("zzz", ["queue", "lane"]) == "; known: lane, queue"
    assert did_you_mean("zzz", []) == ""
