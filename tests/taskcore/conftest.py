"""Holds every move that a task makes, in every test of the core, against the table."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from taskcore import Task, TaskState
from taskcore._task import MOVES

Move = tuple[TaskState | None, TaskState]

# A new task is in one of these.
FIRST = frozenset({TaskState.DEFERRED, TaskState.WAITING, TaskState.SCHEDULED})


@pytest.fixture(autouse=True)
def moves(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Move]]:
    """Record the moves of all tasks; fail the test in which one is not in the table."""
    slot = Task.__dict__["_state"]
    made: list[Move] = []
    wrong: list[str] = []

    def get(task: Task[..., object]) -> TaskState:
        state: TaskState = slot.__get__(task)
        return state

    def assign(task: Task[..., object], state: TaskState) -> None:
        try:
            before = get(task)
        except AttributeError:  # the first assignment, in `__init__`
            made.append((None, state))
            allowed = FIRST
        else:
            made.append((before, state))
            allowed = MOVES[before]
        if state not in allowed:
            wrong.append(f"{task!r} became {state.value}")
        slot.__set__(task, state)

    monkeypatch.setattr(Task, "_state", property(get, assign))
    yield made
    assert wrong == []
