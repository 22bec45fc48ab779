"""Observers: what they are told, in which order, and that they harm nothing."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest

from taskcore import Task, TaskEvent, TaskScope, TaskState
from taskcore._observe import tell
from taskcore.errors import BacklogFullError


async def nothing() -> None:
    pass


async def fail() -> None:
    raise ValueError


class Watch:
    """An observer that keeps what it was told."""

    def __init__(self) -> None:
        self.events: list[TaskEvent] = []
        self.threads: set[int] = set()

    def __call__(self, event: TaskEvent) -> None:
        self.threads.add(threading.get_ident())
        self.events.append(event)

    def of(self, task: object) -> list[str]:
        return [event.kind for event in self.events if event.task is task]


async def ignore(task: Task[..., Any], error: BaseException) -> None:
    pass


async def test_events_of_tasks() -> None:
    """Each task is told of when it is scheduled, started and finished, however it ends."""
    watch = Watch()
    async with TaskScope(limit=1, observers=[watch]) as scope:
        succeeding = scope.schedule(nothing)
        failing = scope.task(on_error=ignore).schedule(fail)
        in_thread = scope.schedule(max, 1, 2)
        cancelled = scope.schedule(asyncio.Event().wait)
        never_begun = scope.schedule(nothing)
        never_begun.cancel()
        await cancelled.started.wait()
        cancelled.cancel()
    whole = ["scheduled", "started", "finished"]
    for task in (succeeding, failing, in_thread, cancelled):
        assert watch.of(task) == whole
    assert watch.of(never_begun) == ["scheduled", "finished"]
    assert watch.threads == {threading.get_ident()}
    times = [event.time for event in watch.events]
    assert times == sorted(times)


async def test_events_of_the_bare_kind() -> None:
    """Without a limit, and from a thread, tasks are told of as well, on the loop."""
    watch = Watch()
    async with TaskScope(observers=[watch]) as scope:
        tasks = [
            scope.schedule(nothing),
            await asyncio.to_thread(scope.schedule, nothing),
            await asyncio.to_thread(scope.schedule, max, 1, 2),
            scope.task(delay=0).schedule(nothing),
        ]
    for task in tasks:
        assert watch.of(task) == ["scheduled", "started", "finished"]
    assert watch.threads == {threading.get_ident()}


async def test_event_shows_the_state() -> None:
    """A task is in the state that the event brought it to."""
    states: list[tuple[str, TaskState]] = []

    def watch(event: TaskEvent) -> None:
        states.append((event.kind, event.task.state))

    async with TaskScope(observers=[watch]) as scope:
        scope.task(on_error=ignore).schedule(fail)
    kind, accepted = states.pop(0)
    assert kind == "scheduled"
    assert accepted in (TaskState.WAITING, TaskState.SCHEDULED)
    assert states == [
        ("started", TaskState.RUNNING),
        ("finished", TaskState.FAILED),
    ]


async def test_skipped() -> None:
    """T6: a task that will not run is reported as skipped, and never as started."""
    watch = Watch()
    async with TaskScope(observers=[watch]) as scope:
        async with scope.lifecycle("end") as unit:
            task = unit.phase("end").task(when="failure").schedule(nothing)
        late = unit.phase("end").task(when="failure").schedule(nothing)
    assert watch.of(task) == watch.of(late) == ["scheduled", "skipped"]


async def test_refused() -> None:
    """L1: a task that was refused was never accepted, so no observer is told of it."""
    watch = Watch()
    async with TaskScope(limit=1, backlog=0, observers=[watch]) as scope:
        running = scope.schedule(asyncio.Event().wait)
        for target in (scope, scope.task(delay=1), scope.lifecycle("end").phase("end")):
            with pytest.raises(BacklogFullError):
                target.schedule(nothing)
            with pytest.raises(BacklogFullError):
                await asyncio.to_thread(target.schedule, nothing)
        await running.started.wait()
        running.cancel()
    assert {event.task for event in watch.events} == {running}


async def test_observer_that_raises(caplog: pytest.LogCaptureFixture) -> None:
    """An observer that raises is logged each time, and harms neither tasks nor other observers."""
    watch = Watch()

    def broken(event: TaskEvent) -> None:
        raise ValueError("watch")

    async with TaskScope(limit=1, grace_period=0, observers=[broken, watch]) as scope:
        tasks = [scope.task(name="save").schedule(nothing) for _ in range(2)]
    for task in tasks:
        assert watch.of(task) == ["scheduled", "started", "finished"]
    messages = [record.getMessage() for record in caplog.records if record.name == "taskcore"]
    assert len(messages) == 6
    assert "failed on 'scheduled' of task 'save'" in messages[0]
    assert all(r.levelno == logging.ERROR for r in caplog.records if r.name == "taskcore")


@pytest.mark.parametrize("error", [asyncio.CancelledError, GeneratorExit, SystemExit])
async def test_observer_that_raises_no_exception(
    error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    """An observer that raises what is no `Exception` is logged as well, and harms nothing."""
    watch = Watch()

    def broken(event: TaskEvent) -> None:
        raise error

    async with TaskScope() as scope:
        task = scope.schedule(nothing)
        tell((broken, watch), TaskEvent("scheduled", task, 0.0))
    assert watch.of(task) == ["scheduled"]
    (record,) = caplog.records
    assert "failed on 'scheduled' of task 'nothing'" in record.getMessage()


@pytest.mark.timeout(10)  # what was cancelled and started all the same never ends
@pytest.mark.parametrize("kind", ["scheduled", "started"])
@pytest.mark.parametrize("limit", [None, 1])
@pytest.mark.parametrize("defer", [False, True], ids=["immediate", "deferred"])
async def test_observer_that_cancels(kind: str, limit: int | None, defer: bool) -> None:
    """An observer may cancel the task that it is told of, at any moment."""
    begun: list[str] = []

    async def begin() -> None:
        begun.append("begun")
        await asyncio.Event().wait()

    def watch(event: TaskEvent) -> None:
        if event.kind == kind and event.task.func is begin:
            event.task.cancel()

    async with TaskScope(limit=limit, grace_period=0, observers=[watch]) as scope:
        unit = scope.lifecycle("end")
        task = (unit.phase("end") if defer else scope).schedule(begin)
        unit.close()
        sibling = scope.schedule(max, 1, 2)
        await task.wait()
        assert await sibling == 2
        assert task.cancelled()
    assert begun == ([] if kind == "scheduled" else begun)


async def test_observer_that_schedules() -> None:
    """An observer may schedule, and the scope's end waits for that as well."""
    follow_ups: list[Task[..., Any]] = []

    def watch(event: TaskEvent) -> None:
        if event.kind == "finished" and len(follow_ups) < 3:
            follow_ups.append(scope.schedule(nothing))

    async with TaskScope(limit=1, observers=[watch]) as scope:
        scope.schedule(nothing)
    assert [task.state.value for task in follow_ups] == ["succeeded"] * 3


async def test_event_has_the_handle() -> None:
    """An observer gets the same handle that the caller has."""
    watch = Watch()
    add: Callable[..., int] = max
    async with TaskScope(observers=(watch,)) as scope:
        task = scope.schedule(add, 1, 2)
        await task
    assert [event.task is task for event in watch.events] == [True] * 3
