"""Plain functions in threads, and calls that come from threads, in every interleaving."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import taskcore
from taskcore import ScopeState, Task, TaskScope, TaskState, current_task
from taskcore._clock import VirtualClockLoop
from taskcore._task import FINAL
from taskcore._threads import ThreadPool
from taskcore.errors import BacklogFullError, ScopeClosedError
from tests.helpers import Journal


async def nothing() -> None:
    pass


# -- plain functions ----------------------------------------------------------------------


async def test_threads_of_its_own() -> None:
    """I5: plain functions run in threads of the scope, which are named after it."""
    async with TaskScope(name="app") as scope:
        thread = await scope.schedule(threading.current_thread)
        assert thread.name.startswith("app-thread-")
        assert thread.daemon
    thread.join(5)
    assert not thread.is_alive()


async def test_thread_limit() -> None:
    """I5: as many plain functions run at once as the scope has threads, and the rest wait."""
    release = threading.Event()
    async with TaskScope(threads=2) as scope:
        tasks = [scope.schedule(release.wait) for _ in range(4)]
        await tasks[0].started.wait()
        await tasks[1].started.wait()
        assert [task.state.value for task in tasks] == ["running"] * 2 + ["scheduled"] * 2
        release.set()


async def test_blocked_functions_leave_the_default_executor_alone() -> None:
    """I5: a thousand blocked functions do not keep `asyncio.to_thread` from its threads."""
    release = threading.Event()
    async with TaskScope(threads=4) as scope:
        tasks = [scope.schedule(release.wait) for _ in range(1_000)]
        await tasks[3].started.wait()
        assert await asyncio.to_thread(max, 1, 2) == 2
        release.set()
    assert all(task.result() for task in tasks)


async def test_idle_thread_is_used_again() -> None:
    """A thread that has ended its function takes the next one."""
    async with TaskScope(threads=1) as scope:
        assert await scope.schedule(threading.get_ident) == await scope.schedule(
            threading.get_ident
        )


async def test_cancelled_before_a_thread_was_free() -> None:
    """S6: a plain function that is cancelled while it waits for a thread never begins."""
    journal = Journal()
    release = threading.Event()
    async with TaskScope(threads=1) as scope:
        running = scope.schedule(release.wait)
        await running.started.wait()
        task = scope.schedule(journal.add, "begun")
        await asyncio.sleep(0)
        task.cancel()
        await task.wait()
        assert (task.cancelled(), task.started.is_set()) == (True, False)
        release.set()
    assert journal.events == []


async def test_cancelled_function_that_returns() -> None:
    """A plain function that is cancelled and returns in time has succeeded."""
    release = threading.Event()
    async with TaskScope() as scope:
        task = scope.schedule(release.wait)
        await task.started.wait()
        task.cancel()
        release.set()
        assert await task is True


async def test_cancelled_function_that_fails() -> None:
    """A plain function that is cancelled and raises has failed with what it raised."""
    release = threading.Event()
    seen: list[BaseException] = []

    def fail() -> None:
        release.wait()
        raise ValueError("in time")

    async def handle(task: Task[..., Any], error: BaseException) -> None:
        seen.append(error)

    async with TaskScope() as scope:
        task = scope.task(on_error=handle).schedule(fail)
        await task.started.wait()
        task.cancel()
        release.set()
        await task.wait()
        assert task.state is TaskState.FAILED
        assert seen == [task.exception()]


@pytest.mark.virtual
async def test_function_that_does_not_stop(caplog: pytest.LogCaptureFixture) -> None:
    """A plain function that ignores its cancellation is abandoned, and its thread replaced."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualClockLoop)
    hangs, release = threading.Event(), threading.Event()
    loop.busy = lambda: True  # until it hangs, and again when time has passed

    def stuck() -> None:
        hangs.set()
        release.wait()

    async with TaskScope(threads=1) as scope:
        task = scope.task(name="stuck").schedule(stuck)
        await asyncio.to_thread(hangs.wait)
        waiting = scope.schedule(max, 1, 2)
        task.cancel()
        loop.busy = lambda: loop.time() >= 1
        await task.wait()
        assert task.state is TaskState.ABANDONED
        assert await waiting == 2
        release.set()
    (message,) = [record.getMessage() for record in caplog.records]
    assert "abandoned task 'stuck'" in message
    assert "in stuck" in message


async def test_function_schedules() -> None:
    """I8: a plain function may schedule on the scope of its task, and nothing is lost."""
    async with TaskScope(limit=2) as scope:

        def spread(depth: int) -> list[Task[..., Any]]:
            assert current_task().args == (depth,)
            return [scope.schedule(spread, depth - 1) for _ in range(2 if depth else 0)]

        root = scope.schedule(spread, 4)
        await scope.wait_idle()
        tasks = [root]
        for task in tasks:
            tasks.extend(task.result())
    assert len(tasks) == 31


# -- the pool ------------------------------------------------------------------------------


async def test_answer_after_the_loop_was_closed() -> None:
    """A function that ends after the loop was closed bothers nobody."""
    release, ended = threading.Event(), threading.Event()
    loop = asyncio.new_event_loop()
    pool = ThreadPool(1, loop, "late")

    def end() -> None:
        release.wait()
        ended.set()

    pool.submit(end, copy_context())
    loop.close()
    pool.close()
    release.set()
    assert await asyncio.to_thread(ended.wait, 5)


async def test_abandoned_when_it_had_ended() -> None:
    """A function that ended just before it would have been abandoned keeps its worker."""
    pool = ThreadPool(1, asyncio.get_running_loop(), "quick")
    call = pool.submit(threading.get_ident, copy_context())
    worker = await call.answer
    while pool.busy:  # noqa: ASYNC110 (the answer comes before the worker is idle)
        await asyncio.sleep(0)
    pool.abandon(call)
    assert await pool.submit(threading.get_ident, copy_context()).answer == worker
    pool.close()


# -- calls from threads --------------------------------------------------------------------


async def test_schedule_from_many_threads() -> None:
    """I8, T5: what many threads schedule at once is all run, each once, in each one's order."""
    events: list[tuple[int, int]] = []
    start = threading.Barrier(4)

    async def note(thread: int, number: int) -> None:
        events.append((thread, number))

    async with TaskScope(limit=3) as scope, scope.lifecycle("one", "two") as unit:

        def schedule_all(thread: int) -> None:
            start.wait()
            for number in range(100):
                unit.phase("one" if number % 2 else "two").schedule(note, thread, number)

        threads = [asyncio.to_thread(schedule_all, thread) for thread in range(4)]
        waiting = asyncio.gather(*threads)
        await asyncio.sleep(0)
        unit.advance("one")
        await waiting
    assert sorted(events) == [(thread, n) for thread in range(4) for n in range(100)]
    for thread in range(4):
        for phase in range(2):
            mine = [n for t, n in events if t == thread and n % 2 == phase]
            assert mine == sorted(mine)


async def test_advance_from_a_thread() -> None:
    """I8: a phase may be reached from any thread, at the loop's next turn."""
    async with TaskScope() as scope, scope.lifecycle("one", "two") as unit:
        task = unit.phase("one").schedule(nothing)
        assert not await asyncio.to_thread(unit.advance, "one")
        await task
        assert unit.is_reached("one")
        assert not unit.is_reached("two")


SOURCES = Path(taskcore.__file__).parent
# Their code runs under locks of their own.
LOCKED = {"_lane.py", "_threads.py"}


class PauseAt:
    """Runs a function, and `meanwhile` at the given line of ours, counted from 0.

    Lines under a lock do not count: nobody who needs that lock could go on.
    """

    def __init__(self, line: int, scope: TaskScope, meanwhile: Callable[[], object]) -> None:
        self.left = line
        self.is_locked = scope._door.locked
        self.meanwhile = meanwhile
        self.where = ""

    def run(self, func: Callable[[], Any]) -> Any:
        before = sys.gettrace()
        sys.settrace(self._trace)
        try:
            return func()
        finally:
            sys.settrace(before)

    def _trace(self, frame: FrameType, event: str, arg: Any) -> Any:
        if event == "call" and not self._may_pause(frame):
            return None
        if event == "line" and not self.is_locked():
            if self.left == 0:
                self.where = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
                sys.settrace(None)
                self.meanwhile()
            self.left -= 1
        return self._trace

    def _may_pause(self, frame: FrameType) -> bool:
        if Path(frame.f_code.co_filename).parent != SOURCES:
            return False
        at: FrameType | None = frame
        while at is not None:
            if Path(at.f_code.co_filename).name in LOCKED:
                return False
            at = at.f_back
        return True


class Thread:
    """A thread that schedules. Time stands still while it, or a worker of the scope, is at work."""

    def __init__(self, loop: VirtualClockLoop, scope: TaskScope) -> None:
        self.loop = loop
        self.scope = scope
        self.at_work = False
        loop.busy = self._is_busy

    async def run(self, func: Callable[[], Any]) -> Any:
        """Run in the thread; a refusal by the scope is no answer."""
        self.at_work = True
        try:
            return await asyncio.to_thread(func)
        except (BacklogFullError, ScopeClosedError):
            return None
        finally:
            self.at_work = False

    def pause(self, meanwhile: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Let the loop go on alone until it has done something."""

        async def alone() -> None:
            self.at_work = False
            await meanwhile()
            self.at_work = True

        asyncio.run_coroutine_threadsafe(alone(), self.loop).result(20)

    def _is_busy(self) -> bool:
        return self.at_work or any(pool.is_busy for pool in self.scope._pools.values())


async def cancel_all(scope: TaskScope, unit: Any) -> None:
    for task in [*scope._tasks, *scope._deferred]:
        task.cancel()


async def end_running(scope: TaskScope, unit: Any) -> None:
    unit.origin.set()
    await asyncio.sleep(0)
    await asyncio.sleep(0)


async def reach(scope: TaskScope, unit: Any) -> None:
    unit.advance("end")
    await asyncio.sleep(0)


async def fail_and_reach(scope: TaskScope, unit: Any) -> None:
    unit.fail()
    unit.advance("end")


async def begin_drain(scope: TaskScope, unit: Any) -> None:
    unit.origin.set()
    drains.append(asyncio.ensure_future(scope.drain(grace_period=0, shield_timeout=0)))
    for _ in range(5):
        await asyncio.sleep(0)


async def drain_all(scope: TaskScope, unit: Any) -> None:
    await scope.drain(grace_period=0, shield_timeout=0)


async def drain_patiently(scope: TaskScope, unit: Any) -> None:
    unit.origin.set()
    await scope.drain(grace_period=1, shield_timeout=0)


drains: list[asyncio.Future[Any]] = []
MEANWHILE = [
    cancel_all,
    end_running,
    reach,
    fail_and_reach,
    begin_drain,
    drain_all,
    drain_patiently,
]
SCHEDULE: dict[str, Callable[[TaskScope, Any], Any]] = {
    "at once": lambda scope, unit: scope.schedule(nothing),
    "in a thread": lambda scope, unit: scope.schedule(threading.get_ident),
    "after a delay": lambda scope, unit: scope.task(delay=0).schedule(nothing),
    "on a phase": lambda scope, unit: unit.phase("end").schedule(nothing),
    "delayed on a phase": lambda scope, unit: unit.phase("end").task(delay=0).schedule(nothing),
}


@pytest.mark.virtual
@pytest.mark.parametrize("meanwhile", MEANWHILE, ids=lambda story: story.__name__)
@pytest.mark.parametrize("how", SCHEDULE)
@pytest.mark.parametrize("limits", [{}, {"limit": 1, "backlog": 0}], ids=str)
async def test_thread_interrupted_at_every_line(
    how: str, limits: dict[str, Any], meanwhile: Any
) -> None:
    """I8, T5: wherever a thread that schedules is interrupted by the loop, nothing is lost."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualClockLoop)
    line = 0
    while True:
        drains.clear()
        scope = TaskScope(grace_period=1, shield_timeout=0, **limits)
        async with scope:
            unit = scope.lifecycle("end")
            unit.origin = asyncio.Event()
            first = scope.schedule(unit.origin.wait)
            await first.started.wait()

            thread = Thread(loop, scope)
            pause = PauseAt(line, scope, partial(thread.pause, partial(meanwhile, scope, unit)))

            task = await thread.run(partial(pause.run, partial(SCHEDULE[how], scope, unit)))
            await asyncio.gather(*drains)
            unit.origin.set()
            unit.advance("end")
            try:
                await asyncio.wait_for(scope.wait_idle(), 100)
            except TimeoutError:
                raise AssertionError(f"nobody was told that {scope} is idle") from None
        at = f"interrupted at {pause.where}"
        assert scope.state is ScopeState.CLOSED, at
        assert task is None or task.state in FINAL, at
        assert (scope._tasks, scope._deferred, scope._timers) == ({}, {}, {}), at
        if (lane := scope._lane) is not None:
            assert (lane.taken, lane.waiting, lane.reserved) == (0, 0, 0), at
        if not pause.where:
            return
        line += 1


@pytest.mark.virtual
async def test_thread_interrupted_by_a_drain_while_room_is_awaited() -> None:
    """I8, L1: a thread that comes too late gives its place back to whoever waits for it."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualClockLoop)
    loop.set_debug(True)  # it refuses to be touched by a thread
    line = 0
    while True:
        async with TaskScope(limit=1, backlog=0) as scope:
            waiting: list[asyncio.Task[None]] = []

            async def drain(
                scope: TaskScope = scope, waiting: list[asyncio.Task[None]] = waiting
            ) -> None:
                waiting.append(asyncio.create_task(scope.wait_for_room()))
                await asyncio.sleep(0)
                await scope.drain(grace_period=0)

            thread = Thread(loop, scope)
            pause = PauseAt(line, scope, partial(thread.pause, drain))
            await thread.run(partial(pause.run, partial(scope.schedule, nothing)))
            await asyncio.wait_for(asyncio.gather(*waiting), 100)
        if not pause.where:
            return
        line += 1


@pytest.mark.virtual
async def test_two_threads_interrupted_at_every_line() -> None:
    """I8, T5: two threads may be the first ones to schedule on a phase."""
    line = 0
    while True:
        async with TaskScope() as scope:
            unit = scope.lifecycle("end")
            tasks: list[Task[..., Any]] = []

            def schedule(unit: Any = unit, tasks: list[Task[..., Any]] = tasks) -> None:
                tasks.append(unit.phase("end").schedule(nothing))

            def elsewhere(schedule: Callable[[], None] = schedule) -> None:
                other = threading.Thread(target=schedule)
                other.start()
                other.join()

            pause = PauseAt(line, scope, elsewhere)
            await asyncio.to_thread(pause.run, schedule)
            unit.advance("end")
            for task in tasks:
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                assert task.state is TaskState.SUCCEEDED, f"interrupted at {pause.where}"
        if not pause.where:
            return
        line += 1
