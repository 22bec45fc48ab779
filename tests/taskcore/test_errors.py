"""What all errors have in common."""

from __future__ import annotations

import asyncio
import copy
import pickle

import pytest

from taskcore import errors
from taskcore.errors import (
    BacklogFullError,
    TaskcoreError,
    TaskTimeoutError,
    UnknownPhaseError,
)

ERRORS: list[TaskcoreError] = [
    BacklogFullError("full", limit=1, backlog=2, running=3, waiting=4, lane="mail"),
    UnknownPhaseError("unknown", "sent", ("stored", "answered")),
    TaskTimeoutError("late", 5.0),
    *(
        getattr(errors, name)("what happened; what to do")
        for name in errors.__all__
        if name not in ("BacklogFullError", "UnknownPhaseError", "TaskTimeoutError")
    ),
]
BUILT_INS = {
    "BacklogFullError": RuntimeError,
    "ConfigTypeError": TypeError,
    "ConfigValueError": ValueError,
    "InvalidCallError": TypeError,
    "NoCurrentScopeError": RuntimeError,
    "NoCurrentTaskError": RuntimeError,
    "NotIdleError": TimeoutError,
    "ScopeClosedError": RuntimeError,
    "TaskAbandonedError": asyncio.CancelledError,
    "TaskCancelledError": asyncio.CancelledError,
    "TaskNotFinishedError": asyncio.InvalidStateError,
    "TaskSkippedError": RuntimeError,
    "TaskTimeoutError": TimeoutError,
    "UnknownPhaseError": LookupError,
    "UnpicklableError": TypeError,
    "WorkerDiedError": RuntimeError,
    "WrongLoopError": RuntimeError,
}


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_error_survives_pickle_and_copy(error: TaskcoreError) -> None:
    """Message and facts arrive in another process as they were."""
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(twin) is type(error)
        assert str(twin) == str(error)
        assert vars(twin) == vars(error)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_error_derives_from_what_fits(error: TaskcoreError) -> None:
    """Each error is one of ours, and of the built-in kind that callers may expect."""
    assert isinstance(error, TaskcoreError)
    name = type(error).__name__
    assert isinstance(error, BUILT_INS.get(name, TaskcoreError))
    assert name in BUILT_INS or name in ("TaskcoreError", "ConfigError")


def test_facts() -> None:
    """The facts of an error are attributes, and its message is all that `str` gives."""
    full, unknown, late = ERRORS[:3]
    assert vars(full) == {"limit": 1, "backlog": 2, "running": 3, "waiting": 4, "lane": "mail"}
    assert vars(unknown) == {"phase": "sent", "known": ("stored", "answered")}
    assert vars(late) == {"timeout": 5.0}
    assert [str(error) for error in ERRORS[:3]] == ["full", "unknown", "late"]
