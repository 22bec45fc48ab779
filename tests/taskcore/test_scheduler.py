"""`schedule` and `task`: when they return, when a task starts, and in which order."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from taskcore import Task, TaskConfig, TaskScope, TaskState
from taskcore._run import EAGER, begin
from taskcore.errors import BacklogFullError
from taskcore.spi import Scheduler
from tests.helpers import Journal


async def nothing() -> None:
    pass


OPTIONS: dict[str, dict[str, Any]] = {
    "bare": {},
    "shielded": {"shield": True},
    "with a timeout": {"timeout": 60},
    "on the loop": {"run_in": "loop"},
    "with a name": {"name": "x"},
}


@pytest.mark.parametrize("limit", [None, 5])
@pytest.mark.parametrize("kind", OPTIONS)
async def test_schedule_runs_no_user_code(kind: str, limit: int | None) -> None:
    """T1: nothing of the function runs before `schedule` returned; it starts at the next turn."""
    journal = Journal()

    async def begin() -> None:
        journal.add("begun")

    async with TaskScope(limit=limit) as scope:
        for _ in range(2):
            task = scope.task(**OPTIONS[kind]).schedule(begin)
            assert task.state is TaskState.SCHEDULED
            assert journal.events == []
        # Called after the tasks were scheduled, so run after both have started.
        loop = asyncio.get_running_loop()
        turned = loop.create_future()
        loop.call_soon(turned.set_result, None)
        await turned
        assert journal.events == ["begun"] * 2


async def test_schedule_of_a_plain_function() -> None:
    """T1: a plain function runs in a thread, and `schedule` does not wait for it."""
    release = threading.Event()
    async with TaskScope() as scope:
        tasks = [scope.schedule(release.wait) for _ in range(3)]
        assert not any(task.started.is_set() for task in tasks)
        release.set()
        assert [await task for task in tasks] == [True] * 3


@pytest.mark.parametrize("limit", [None, 1, 3])
async def test_order(limit: int | None) -> None:
    """T2: immediate tasks start in the order in which they were scheduled, however made."""
    journal = Journal()

    async def begin(number: int) -> None:
        journal.add(number)
        await asyncio.sleep(0)

    async with TaskScope(limit=limit) as scope:
        targets: list[Scheduler] = [
            scope,
            scope.task(timeout=60),
            scope.task(shield=True),
            scope.lifecycle("end"),
        ]
        for number in range(20):
            targets[number % len(targets)].schedule(begin, number)
    assert journal.events == list(range(20))


async def test_order_in_one_thread() -> None:
    """T2: plain functions start in the order in which they were scheduled."""
    journal = Journal()
    async with TaskScope(threads=1) as scope:
        for number in range(20):
            scope.schedule(journal.add, number)
    assert journal.events == list(range(20))


@pytest.mark.skipif(not EAGER, reason="up to Python 3.11 asyncio begins each task by itself")
async def test_interrupted_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """T5: what is interrupted between two tasks that begin in one turn goes on in the next."""
    order: list[int] = []
    interrupts = [ZeroDivisionError()]
    problems: list[object] = []

    async def note(number: int) -> None:
        order.append(number)

    def begin_or_not(task: Task[..., Any]) -> None:
        begin(task)
        if interrupts:
            raise interrupts.pop()

    monkeypatch.setattr("taskcore._books.begin", begin_or_not)
    asyncio.get_running_loop().set_exception_handler(
        lambda loop, context: problems.append(context["exception"])
    )
    async with TaskScope() as scope:
        for number in range(3):
            scope.schedule(note, number)
    assert order == [0, 1, 2]
    assert [type(problem) for problem in problems] == [ZeroDivisionError]


async def test_order_of_a_thread_and_the_loop() -> None:
    """T2: what a thread has scheduled comes first, though the loop had no turn in between."""
    order: list[str] = []

    async def note(name: str) -> None:
        order.append(name)

    async with TaskScope() as scope:
        for names in ("ab", "cd"):
            thread = threading.Thread(target=scope.schedule, args=(note, names[0]))
            thread.start()
            thread.join()
            scope.schedule(note, names[1])
            scope.schedule(note, names[1].upper())
    assert "".join(order) == "abBcdD"


async def test_schedule_inside_a_task() -> None:
    """T5: what a running task schedules is run, also by the last one in its last line."""
    journal = Journal()

    async with TaskScope() as scope:

        async def chain(number: int) -> None:
            journal.add(number)
            if number:
                scope.schedule(chain, number - 1)

        def chain_in_thread(number: int) -> None:
            journal.add(number)
            if number:
                scope.schedule(chain_in_thread, number - 1)

        scope.schedule(chain, 3)
        await scope.wait_idle()
        scope.schedule(chain_in_thread, 3)
    assert journal.events == [3, 2, 1, 0] * 2


@pytest.mark.virtual
async def test_delay() -> None:
    """A delay counts from the call; delayed tasks start in the order of their times."""
    journal = Journal()

    async def begin(number: int) -> None:
        journal.add((number, asyncio.get_running_loop().time()))

    async with TaskScope() as scope:
        for delay in (3, 1, 2, 0):
            task = scope.task(delay=delay).schedule(begin, delay)
            assert task.state is TaskState.DEFERRED
        assert journal.events == []
    assert journal.events == [(0, 0.0), (1, 1.0), (2, 2.0), (3, 3.0)]


@pytest.mark.virtual
async def test_delayed_task_is_cancelled() -> None:
    """A task that is cancelled during its delay never starts, and nobody waits for its time."""
    async with TaskScope(limit=1, backlog=0) as scope:
        task = scope.task(delay=3600).schedule(nothing)
        with pytest.raises(BacklogFullError):
            scope.task(delay=3600).schedule(nothing)
        task.cancel()
        assert task.cancelled()
        await scope.schedule(nothing)
    assert asyncio.get_running_loop().time() == 0


@pytest.mark.virtual
async def test_delay_from_a_thread() -> None:
    """I8: a delayed task may be scheduled from a thread, and cancelled before its delay began."""
    async with TaskScope() as scope:
        task = await asyncio.to_thread(scope.task(delay=5).schedule, nothing)
        thread = threading.Thread(target=lambda: tasks.append(delayed.schedule(nothing)))
        tasks: list[Task[..., Any]] = []
        delayed = scope.task(delay=3600)
        thread.start()
        thread.join()
        tasks[0].cancel()
        await task
    assert tasks[0].cancelled()
    assert asyncio.get_running_loop().time() == 5


async def test_task_keeps_defaults() -> None:
    """`task` refines the settings of what it is called on, and can be kept and refined again."""
    async with TaskScope(config=TaskConfig(name="app", timeout=60)) as scope:
        shielded = scope.task(shield=True)
        named = shielded.task(name="mail")
        assert scope.config == TaskConfig(name="app", timeout=60)
        assert shielded.config == TaskConfig(name="app", timeout=60, shield=True)
        assert named.config == TaskConfig(name="mail", timeout=60, shield=True)
        tasks = [target.schedule(nothing) for target in (scope, shielded, named, shielded)]
        assert [task.name for task in tasks] == ["app", "app", "mail", "app"]
        assert [task.config.shielded for task in tasks] == [False, True, True, True]
        assert not shielded.task(shield=False).schedule(nothing).config.shielded


async def test_refused_when_full() -> None:
    """L1: a task beyond limit and backlog is refused, and the message says what to do."""
    async with TaskScope(limit=1, backlog=1, name="app") as scope:
        running = scope.schedule(asyncio.Event().wait)
        waiting = scope.schedule(nothing)
        assert waiting.state is TaskState.WAITING
        with pytest.raises(BacklogFullError, match=r"'await scope\.wait_for_room\(\)'") as caught:
            scope.schedule(nothing)
        assert (caught.value.running, caught.value.waiting) == (1, 1)
        running.cancel()
        await waiting


@pytest.mark.parametrize("options", [{}, {"timeout": 60.0}], ids=["bare", "configured"])
async def test_lane_without_a_limit_of_the_scope(options: dict[str, Any]) -> None:
    """A lane bounds its tasks in a scope that has no limit of its own."""
    release = asyncio.Event()
    async with TaskScope(lanes={"mail": 1}) as scope:
        mail = scope.task(lane="mail", **options)
        tasks = [mail.schedule(release.wait) for _ in range(2)]
        free = scope.schedule(release.wait)
        await tasks[0].started.wait()
        await free.started.wait()
        assert [task.state.value for task in tasks] == ["running", "waiting"]
        release.set()
    assert [task.state.value for task in tasks] == ["succeeded", "succeeded"]
