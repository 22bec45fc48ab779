"""The states of tasks and scopes, and the moves between them.

The tests hold every assignment of a task's state against `MOVES`.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType


class TaskState(Enum):
    """What a task is doing, or how it ended."""

    DEFERRED = "deferred"
    """Waits for its phase or for its delay."""
    WAITING = "waiting"
    """Could start, and waits for a free slot under the limit."""
    SCHEDULED = "scheduled"
    """Has its slot, and starts at the loop's next turn or in the next free thread."""
    RUNNING = "running"
    """Its function has begun and has not ended."""
    SUCCEEDED = "succeeded"
    """Its function returned."""
    FAILED = "failed"
    """Its function raised, for the last time; the error handler has run."""
    CANCELLED = "cancelled"
    """It was cancelled, before or after it began."""
    SKIPPED = "skipped"
    """It was deferred, and its unit of work ended in a way that `when` excludes."""
    ABANDONED = "abandoned"
    """It was cancelled and did not stop; nobody waits for it any more."""


_S = TaskState

MOVES: Mapping[TaskState, frozenset[TaskState]] = MappingProxyType(
    {
        _S.DEFERRED: frozenset({_S.WAITING, _S.SCHEDULED, _S.SKIPPED, _S.CANCELLED}),
        _S.WAITING: frozenset({_S.SCHEDULED, _S.CANCELLED}),
        _S.SCHEDULED: frozenset({_S.RUNNING, _S.SUCCEEDED, _S.FAILED, _S.CANCELLED, _S.ABANDONED}),
        _S.RUNNING: frozenset({_S.SUCCEEDED, _S.FAILED, _S.CANCELLED, _S.ABANDONED}),
        _S.SUCCEEDED: frozenset(),
        _S.FAILED: frozenset(),
        _S.CANCELLED: frozenset(),
        _S.SKIPPED: frozenset(),
        _S.ABANDONED: frozenset(),
    }
)
"""The allowed moves. What a state may become stands beside it; final states, nothing.

A scheduled one may end before its function begins: a limiter that raises, a retry that
returns without a call, a cancellation while it waits for a thread.
"""

FINAL: frozenset[TaskState] = frozenset(state for state, moves in MOVES.items() if not moves)


class ScopeState(Enum):
    """Where a scope stands. The moves are those of the drain, in this order."""

    NEW = "not entered yet"
    OPEN = "open"
    DRAINING = "draining"
    """Intake is closed; everything accepted goes on, until the grace period ends."""
    CANCELLING = "cancelling"
    """Unshielded tasks have been cancelled; shielded ones go on, until their deadline."""
    ABANDONING = "abandoning"
    """Everything has been cancelled; what does not stop is abandoned."""
    CLOSED = "closed"
