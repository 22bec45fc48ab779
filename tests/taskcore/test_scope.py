"""A scope from its first breath to its last, and what no task can do to it."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from taskcore import ScopeState, Task, TaskConfig, TaskScope, TaskState
from taskcore.errors import ScopeClosedError, TaskTimeoutError, WrongLoopError
from tests.helpers import Journal, Outcome, cancel_at_every_await


async def nothing() -> None:
    pass


# -- its life -----------------------------------------------------------------------------


async def test_task_that_waits_for_its_own_scope() -> None:
    """I7: a task that waits until its scope is idle would wait for itself, and is told so."""
    async with TaskScope(name="app") as scope:
        task = scope.task(name="waiter").schedule(scope.wait_idle)
        with pytest.raises(RuntimeError, match="'waiter' cannot wait until idle"):
            await task


async def test_end_waits_for_every_task() -> None:
    """A normal end waits for all tasks, and for those that they schedule meanwhile."""
    journal = Journal()

    async with TaskScope() as scope:

        async def grow(depth: int) -> None:
            await asyncio.sleep(0)
            if depth:
                scope.schedule(grow, depth - 1)
            journal.add(depth)

        scope.schedule(grow, 3)
    assert journal.events == [3, 2, 1, 0]
    assert scope.state is ScopeState.CLOSED


@pytest.mark.virtual
async def test_end_waits_for_delays() -> None:
    """A normal end waits for tasks that are still delayed."""
    async with TaskScope() as scope:
        task = scope.task(delay=3600).schedule(nothing)
    assert task.state is TaskState.SUCCEEDED
    assert asyncio.get_running_loop().time() == 3600


@pytest.mark.virtual
async def test_end_by_exception_drains() -> None:
    """A block that raises drains: the exception comes out when every task has ended."""
    tasks: list[Task[..., Any]] = []

    async def block() -> None:
        async with TaskScope(grace_period=5) as scope:
            tasks.extend(scope.schedule(asyncio.sleep, seconds) for seconds in (4, 6))
            raise ValueError("block")

    with pytest.raises(ValueError, match="block"):
        await block()
    short, long = tasks
    assert (short.state, long.state) == (TaskState.SUCCEEDED, TaskState.CANCELLED)
    assert asyncio.get_running_loop().time() == 5


@pytest.mark.virtual
async def test_end_by_cancellation_drains() -> None:
    """A block that is cancelled drains before it ends, and stays cancelled."""
    journal = Journal()

    async def block() -> None:
        async with TaskScope(grace_period=5) as scope:
            tasks.append(scope.schedule(asyncio.sleep, 4))
            tasks.append(scope.task(shield=True).schedule(asyncio.sleep, 7))
            tasks.append(scope.schedule(asyncio.sleep, 6))
            journal.add("waiting")

    tasks: list[Task[..., Any]] = []
    blocked = asyncio.create_task(block())
    await asyncio.sleep(0)
    blocked.cancel()
    await asyncio.wait([blocked])
    assert blocked.cancelled()
    assert [task.state.value for task in tasks] == ["succeeded", "succeeded", "cancelled"]


async def test_end_cancelled_at_every_await() -> None:
    """A scope that is cancelled at any await, twice even, ends with all its tasks ended."""
    scopes: list[tuple[TaskScope, list[Task[..., Any]]]] = []

    async def procedure() -> None:
        async with TaskScope(grace_period=0, limit=2) as scope:
            tasks: list[Task[..., Any]] = []
            scopes.append((scope, tasks))
            tasks += [scope.schedule(asyncio.sleep, 0) for _ in range(3)]
            tasks.append(scope.task(shield=True).schedule(asyncio.sleep, 0))
            await tasks[0]
            async with scope.lifecycle("end") as unit:
                tasks.append(unit.phase("end").schedule(asyncio.sleep, 0))
                await scope.wait_for_room()
            await scope.wait_idle()

    def check(outcome: Outcome[None]) -> None:
        scope, tasks = scopes[-1]
        assert scope.state is ScopeState.CLOSED
        assert all(task.done() for task in tasks)
        # The first one was awaited; the shielded one was kept from the cancellation.
        assert tasks[3].state is TaskState.SUCCEEDED
        assert outcome.cancelled == bool(outcome.cancelled_at)

    for late in (False, True):
        outcomes = await cancel_at_every_await(procedure, times=2, late=late, check=check)
        assert len(outcomes) > 5


async def test_states() -> None:
    """A scope is new, open, draining and closed, in this order."""
    scope = TaskScope(name="mail")
    assert scope.state is ScopeState.NEW
    assert repr(scope) == "<TaskScope 'mail' not entered yet, 0 tasks>"
    release = asyncio.Event()
    async with scope:
        states = [scope.state]
        scope.schedule(release.wait)
        assert repr(scope) == "<TaskScope 'mail' open, 1 tasks>"
        draining = asyncio.create_task(scope.drain())
        await asyncio.sleep(0)
        states.append(scope.state)
        release.set()
        await draining
    assert [*states, scope.state] == [ScopeState.OPEN, ScopeState.DRAINING, ScopeState.CLOSED]
    assert scope.name == "mail"
    assert TaskScope().name != TaskScope().name


async def test_wait_idle() -> None:
    """Waiting until a scope is idle leaves it open, and does not wait for phases."""
    release = asyncio.Event()
    async with TaskScope() as scope, scope.lifecycle("end") as unit:
        await scope.wait_idle()
        deferred = unit.phase("end").schedule(nothing)
        task = scope.schedule(release.wait)
        waiters = [asyncio.create_task(scope.wait_idle()) for _ in range(3)]
        await asyncio.sleep(0)
        waiters[0].cancel()
        release.set()
        await asyncio.wait(waiters)
        assert task.done()
        assert deferred.state is TaskState.DEFERRED
        assert await scope.schedule(max, 1, 2) == 2


async def test_wait_idle_while_a_task_of_a_thread_is_on_its_way() -> None:
    """T5: what a thread gives to a phase that has not come is not waited for once it is there."""
    async with TaskScope() as scope, scope.lifecycle("end") as unit:
        tasks: list[Task[..., None]] = []
        thread = threading.Thread(target=lambda: tasks.append(unit.phase("end").schedule(nothing)))
        thread.start()
        thread.join()
        await scope.wait_idle()
        assert tasks[0].state is TaskState.DEFERRED


async def test_scopes_do_not_mix() -> None:
    """Two scopes own their tasks apart: one may end before the other."""
    async with TaskScope() as outer:
        task = outer.schedule(asyncio.Event().wait)
        async with TaskScope() as inner:
            done = inner.schedule(nothing)
        assert done.done()
        assert not task.done()
        task.cancel()


# -- wrong use ----------------------------------------------------------------------------


async def test_not_entered() -> None:
    """I7: a scope that was not entered takes nothing, and says how to enter it."""
    scope = TaskScope()
    fix = r"write 'async with TaskScope\(\) as scope:'"
    with pytest.raises(ScopeClosedError, match=fix):
        scope.schedule(nothing)
    with pytest.raises(ScopeClosedError, match=fix):
        scope.task(delay=1).schedule(nothing)
    with pytest.raises(ScopeClosedError, match=fix):
        await asyncio.to_thread(scope.schedule, nothing)
    with pytest.raises(ScopeClosedError, match=fix):
        scope.lifecycle("end")
    with pytest.raises(ScopeClosedError, match=fix):
        await scope.drain()


async def test_entered_twice() -> None:
    """I7: a scope has one life, and the second entry says to make a new one."""
    scope = TaskScope()
    async with scope:
        with pytest.raises(ScopeClosedError, match=r"make a new TaskScope\(\.\.\.\)"):
            await scope.__aenter__()
        assert await scope.schedule(max, 1, 2) == 2
    with pytest.raises(ScopeClosedError, match=r"make a new TaskScope\(\.\.\.\)"):
        await scope.__aenter__()


async def test_closed() -> None:
    """I7: a scope that has ended takes nothing, and says what to do instead."""
    async with TaskScope() as scope, scope.lifecycle("end") as unit:
        phase = unit.phase("end")
    fix = r"open a scope of your own with 'async with TaskScope\(\)'"
    for target in (scope, unit, phase, scope.task(delay=1), phase.task(when="always")):
        with pytest.raises(ScopeClosedError, match=fix):
            target.schedule(nothing)
        with pytest.raises(ScopeClosedError, match=fix):
            await asyncio.to_thread(target.schedule, nothing)
    with pytest.raises(ScopeClosedError, match=fix):
        scope.lifecycle("end")


async def test_draining() -> None:
    """I7: a scope that drains takes nothing from outside of its shielded tasks."""
    release = asyncio.Event()
    async with TaskScope() as scope:
        task = scope.schedule(release.wait)
        draining = asyncio.create_task(scope.drain())
        await asyncio.sleep(0)
        with pytest.raises(ScopeClosedError, match="is draining; schedule it before shutdown"):
            scope.schedule(nothing)
        release.set()
        assert [entry.id for entry in (await draining).succeeded] == [task.id]


async def test_drained_by_its_own_task() -> None:
    """I7: a task that drains its own scope is refused instead of waiting for itself."""
    async with TaskScope(config=TaskConfig(on_error=keep_quiet)) as scope:
        task = scope.schedule(scope.drain)
        with pytest.raises(RuntimeError, match="outside of its tasks"):
            await task


async def test_another_loop() -> None:
    """I7: a scope is refused on every other event loop than its own, which the message names."""
    async with TaskScope(limit=1) as scope, scope.lifecycle("end") as unit:
        phase = unit.phase("end")
        scope.schedule(nothing)

        async def use_it_elsewhere() -> None:
            for target in (scope, unit, phase, scope.task(delay=1), scope.task(name="x")):
                with pytest.raises(WrongLoopError, match="call it there, or from a thread that"):
                    target.schedule(nothing)
            for wait in (scope.drain, scope.wait_idle, scope.wait_for_room):
                with pytest.raises(WrongLoopError, match="call it there, or from a thread that"):
                    await asyncio.wait_for(wait(), 10)

        await asyncio.to_thread(asyncio.run, use_it_elsewhere())


def test_loop_of_the_scope_is_closed() -> None:
    """I7: a scope whose loop was closed under it takes nothing more."""

    async def main() -> TaskScope:
        return await TaskScope().__aenter__()

    scope = asyncio.run(main())
    with pytest.raises(ScopeClosedError, match="open a scope of your own"):
        scope.schedule(nothing)


# -- what no task can do ------------------------------------------------------------------

RAISED: list[BaseException] = [
    ValueError("task"),
    SystemExit(3),
    KeyboardInterrupt(),
    GeneratorExit(),
    ExceptionGroup("group", [ValueError("one"), TypeError("two")]),
    BaseExceptionGroup("group", [KeyboardInterrupt()]),
    StopIteration(1),
    StopAsyncIteration(),
    RecursionError(),
    TimeoutError(),
]


def raising(error: BaseException) -> Callable[[], Any]:
    async def fail() -> None:
        raise error

    return fail


def raising_later(error: BaseException) -> Callable[[], Any]:
    async def fail_later() -> None:
        await asyncio.sleep(0)
        raise error

    return fail_later


def raising_in_thread(error: BaseException) -> Callable[[], Any]:
    def fail_in_thread() -> None:
        raise error

    return fail_in_thread


@pytest.mark.parametrize("make", [raising, raising_later, raising_in_thread])
@pytest.mark.parametrize("options", [{}, {"timeout": 60.0}], ids=["bare", "configured"])
@pytest.mark.parametrize("error", RAISED, ids=lambda error: type(error).__name__)
async def test_whatever_a_task_raises(
    error: BaseException, make: Callable[[BaseException], Any], options: dict[str, Any]
) -> None:
    """I1: whatever a task raises reaches its handler, and no sibling, caller or scope."""
    seen: list[BaseException] = []

    async def handle(task: Task[..., Any], raised: BaseException) -> None:
        seen.append(raised)

    async with TaskScope(limit=1) as scope:
        failing = scope.task(on_error=handle, **options).schedule(make(error))
        sibling = scope.schedule(max, 1, 2)
        await failing.wait()
        assert await sibling == 2
    assert failing.state is TaskState.FAILED
    assert seen == [failing.exception()]
    # Python itself turns a StopIteration that leaves a coroutine into a RuntimeError.
    assert seen[0] is error or seen[0].__cause__ is error
    error.__traceback__ = None


@pytest.mark.parametrize("make", [raising, raising_later, raising_in_thread])
@pytest.mark.parametrize("args", [(), ("stuck",)], ids=["bare", "with a message"])
async def test_task_that_raises_cancelled_error(
    make: Callable[[BaseException], Any],
    args: tuple[str, ...],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """I1: a task that raises `CancelledError` by itself cancels nobody else, and is logged."""
    async with TaskScope(limit=1) as scope:
        task = scope.schedule(make(asyncio.CancelledError(*args)))
        sibling = scope.schedule(max, 1, 2)
        await task.wait()
        assert await sibling == 2
        assert task.state is TaskState.CANCELLED
    (record,) = [record for record in caplog.records if record.name == "taskcore"]
    assert "though nobody cancelled it" in record.getMessage()


@pytest.mark.parametrize("make", [raising, raising_later, raising_in_thread])
@pytest.mark.parametrize(
    "error", [*RAISED, asyncio.CancelledError()], ids=lambda error: type(error).__name__
)
async def test_whatever_a_handler_raises(
    error: BaseException,
    make: Callable[[BaseException], Callable[[], Any]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """I1: a handler that fails is logged with both tracebacks, and harms nobody."""
    fail = make(error)

    async def handle(task: Task[..., Any], raised: BaseException) -> None:
        await fail()

    def handle_in_thread(task: Task[..., Any], raised: BaseException) -> None:
        fail()

    handler = handle_in_thread if make is raising_in_thread else handle
    async with TaskScope(limit=1) as scope:
        task = scope.task(on_error=handler, name="save").schedule(raising(ValueError("task")))
        sibling = scope.schedule(max, 1, 2)
        await task.wait()
        assert await sibling == 2
        assert isinstance(task.exception(), ValueError)
    (record,) = [record for record in caplog.records if record.name == "taskcore"]
    assert f"of task 'save' (id {task.id}" in record.getMessage()
    logged = logging.Formatter().format(record)
    assert "ValueError: task" in logged
    assert type(error).__name__ in logged
    error.__traceback__ = error.__context__ = None


@dataclass(frozen=True)
class Frozen(Exception):
    """Lets nobody set anything, its traceback included."""

    text: str


@pytest.mark.parametrize("make", [raising, raising_later, raising_in_thread])
async def test_error_that_lets_nothing_be_set(
    make: Callable[[BaseException], Callable[[], Any]], caplog: pytest.LogCaptureFixture
) -> None:
    """I1: a frozen dataclass is an error like any other, of a task and of its handler."""

    def handle(task: Task[..., Any], raised: BaseException) -> None:
        raise Frozen("handler") from Frozen("cause")

    async with TaskScope() as scope:
        task = scope.task(on_error=handle).schedule(make(Frozen("task")))
        await task.wait()
        assert task.exception() == Frozen("task")
    (record,) = [record for record in caplog.records if record.name == "taskcore"]
    logged = logging.Formatter().format(record)
    assert "Frozen: task" in logged
    assert "Frozen: handler" in logged


async def test_handler_that_raises_what_it_got(caplog: pytest.LogCaptureFixture) -> None:
    """I1: an error that its handler raises again is logged once, as the handler's failure."""

    def handle(task: Task[..., Any], raised: BaseException) -> None:
        raise raised

    async with TaskScope() as scope:
        await scope.task(on_error=handle).schedule(raising(ValueError("task"))).wait()
    (record,) = caplog.records
    assert logging.Formatter().format(record).count("ValueError: task") == 1


async def test_handler_that_raises_a_cycle(caplog: pytest.LogCaptureFixture) -> None:
    """I1: errors that are each other's cause are logged like any other."""

    def handle(task: Task[..., Any], raised: BaseException) -> None:
        first, second = LookupError("first"), LookupError("second")
        second.__cause__ = first
        raise first from second

    async with TaskScope() as scope:
        await scope.task(on_error=handle).schedule(raising(ValueError("task"))).wait()
    (record,) = caplog.records
    assert "LookupError: first" in logging.Formatter().format(record)


async def test_unhandled_error_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """I1, I3: without a handler the error is logged once, with its traceback and no argument."""

    async def save(secret: str, *, password: str) -> None:
        raise ValueError("no disk")

    async with TaskScope(name="app") as scope:
        task = scope.task(name="save").schedule(save, "hunter1", password="hunter2")
        await task.wait()
    (record,) = caplog.records
    assert record.getMessage().startswith(f"task 'save' (id {task.id}")
    assert (record.name, record.levelno) == ("taskcore", logging.ERROR)
    facts = {"task_name": "save", "task_id": task.id, "scope": "app"}
    assert facts.items() <= vars(record).items()
    assert vars(record)["task_function"].endswith("save")
    logged = logging.Formatter().format(record)
    assert "ValueError: no disk" in logged
    assert 'raise ValueError("no disk")' in logged
    assert "hunter" not in logged + repr(vars(record))


async def test_handled_error_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """I1: an error that a handler took is not logged."""
    async with TaskScope(config=TaskConfig(on_error=keep_quiet)) as scope:
        await scope.schedule(raising(ValueError())).wait()
    assert caplog.records == []


async def test_sync_handler() -> None:
    """I1: a plain function as handler runs in a thread, and the task ends after it has."""
    threads: list[int] = []
    states: list[bool] = []

    def handle(task: Task[..., Any], error: BaseException) -> None:
        threads.append(threading.get_ident())
        states.append(task.done())

    async with TaskScope() as scope:
        task = scope.task(on_error=handle).schedule(raising(ValueError()))
        await task.wait()
        assert states == [False]
        assert threads != [threading.get_ident()]


@pytest.mark.virtual
async def test_handler_after_timeout() -> None:
    """I2: the handler runs when the timeout failed the task, too."""
    seen: list[BaseException] = []

    async def handle(task: Task[..., Any], error: BaseException) -> None:
        seen.append(error)

    async with TaskScope() as scope:
        task = scope.task(timeout=5, on_error=handle).schedule(asyncio.Event().wait)
        with pytest.raises(TaskTimeoutError, match=r"timeout=5 s; raise its timeout, or retry it"):
            await task
    assert seen == [task.exception()]


async def test_handler_after_last_retry() -> None:
    """I2: the handler runs once, when the last retry failed."""
    seen: list[BaseException] = []
    attempts = Journal()

    async def handle(task: Task[..., Any], error: BaseException) -> None:
        seen.append(error)

    async def thrice(func: Callable[..., Any], *args: Any) -> Any:
        for _ in range(2):
            try:
                return await func(*args)
            except ValueError:
                pass
        return await func(*args)

    async def fail(number: int) -> None:
        attempts.add(number)
        raise ValueError

    async with TaskScope() as scope:
        task = scope.task(retry=thrice, on_error=handle).schedule(fail, 7)
        await task.wait()
    assert attempts.events == [7, 7, 7]
    assert seen == [task.exception()]


@pytest.mark.virtual
async def test_handler_of_a_shielded_task() -> None:
    """I2: the handler of a shielded task is shielded as well, and of another it is not."""
    journal = Journal()

    async def refund(task: Task[..., Any], error: BaseException) -> None:
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            journal.add((task.name, "cancelled"))
            raise
        journal.add((task.name, "refunded"))

    async with TaskScope(grace_period=5) as scope:
        handled = scope.task(on_error=refund)
        tasks = [
            handled.task(name="kept", shield=True).schedule(raising(ValueError())),
            handled.task(name="cut").schedule(raising(ValueError())),
        ]
        await asyncio.sleep(0)
        report = await scope.drain()
    assert journal.events == [("cut", "cancelled"), ("kept", "refunded")]
    assert {entry.id for entry in report.failed} <= {task.id for task in tasks}
    assert all(task.done() for task in tasks)


async def test_scope_is_freed() -> None:
    """I6: nothing global holds a scope that has ended, or what it ran."""
    before = sum(isinstance(at, TaskScope) for at in gc.get_objects())
    async with TaskScope(limit=1) as scope:
        await scope.schedule(max, 1, 2)
        async with scope.lifecycle("end") as unit:
            unit.phase("end").schedule(nothing)
        del unit
    del scope
    await asyncio.sleep(0)
    gc.collect()
    assert sum(isinstance(at, TaskScope) for at in gc.get_objects()) <= before


async def keep_quiet(task: Task[..., Any], error: BaseException) -> None:
    pass
