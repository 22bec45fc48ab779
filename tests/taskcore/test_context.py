"""Context variables, and what code below a task can ask about where it runs."""

from __future__ import annotations

import asyncio
import threading
from contextvars import Context, ContextVar
from typing import Any

import pytest

from taskcore import (
    Task,
    TaskConfig,
    TaskScope,
    check_cancelled,
    current_scope,
    current_task,
)
from taskcore._clock import VirtualClockLoop
from taskcore.errors import (
    NoCurrentScopeError,
    NoCurrentTaskError,
    TaskCancelledError,
    TaskTimeoutError,
)
from tests.helpers import Journal

user: ContextVar[str] = ContextVar("user")


async def who() -> str:
    return user.get()


def who_in_thread() -> str:
    return user.get()


# -- context variables --------------------------------------------------------------------


@pytest.mark.parametrize("func", [who, who_in_thread])
@pytest.mark.parametrize("options", [{}, {"timeout": 60.0}, {"delay": 0}], ids=str)
@pytest.mark.parametrize("limit", [None, 1])
async def test_context_is_that_of_the_call(
    func: Any, options: dict[str, Any], limit: int | None
) -> None:
    """I4: a task sees the context variables of the moment of `schedule`, in every phase."""
    async with TaskScope(limit=limit) as scope, scope.lifecycle("one", "two") as unit:
        tasks: list[Task[..., str]] = []
        for number, target in enumerate((scope, unit, unit.phase("one"), unit.phase("two"))):
            user.set(f"user {number}")
            tasks.append(target.task(**options).schedule(func))
        user.set("someone else")
        unit.advance("one")
        unit.advance("two")
        assert [await task for task in tasks] == [f"user {number}" for number in range(4)]


async def test_context_of_a_calling_thread() -> None:
    """I4: what is scheduled from a thread sees the context of that thread."""
    async with TaskScope() as scope, scope.lifecycle("end") as unit:

        def schedule() -> list[Task[..., str]]:
            user.set("thread")
            targets = (scope, unit.phase("end"), scope.task(timeout=60))
            return [
                task
                for target in targets
                for task in (target.schedule(who), target.schedule(who_in_thread))
            ]

        user.set("loop")
        tasks = await asyncio.to_thread(schedule)
        unit.advance("end")
        assert {await task for task in tasks} == {"thread"}


async def test_context_is_a_tasks_own() -> None:
    """I4: what a task sets, neither its siblings nor the caller see."""

    async def change() -> None:
        user.set("task")

    async with TaskScope(limit=1) as scope:
        user.set("caller")
        await scope.schedule(change)
        await scope.schedule(user.set, "thread")
        assert await scope.schedule(who) == user.get() == "caller"


async def test_context_of_the_handler() -> None:
    """I4: an error handler sees the context of its task, in a thread as well."""
    seen = Journal()

    async def fail() -> None:
        raise ValueError

    async def handle(task: Task[..., Any], error: BaseException) -> None:
        seen.add(user.get())

    def handle_in_thread(task: Task[..., Any], error: BaseException) -> None:
        seen.add(user.get())

    async with TaskScope() as scope:
        user.set("caller")
        await scope.task(on_error=handle).schedule(fail).wait()
        await scope.task(on_error=handle_in_thread).schedule(fail).wait()
        user.set("someone else")
    assert seen.events == ["caller", "caller"]


# -- the current task ---------------------------------------------------------------------


async def test_current_task() -> None:
    """The current task is the handle that `schedule` gave, on the loop and in a thread."""

    async def look() -> Task[..., Any]:
        return current_task()

    async with TaskScope() as scope:
        for func in (look, current_task):
            for target in (scope, scope.task(timeout=60), scope.lifecycle("end")):
                task = target.schedule(func)
                assert await task is task


async def test_no_current_task_in_a_foreign_thread() -> None:
    """A thread that a function makes for itself is no part of its task."""

    async def from_thread() -> None:
        with pytest.raises(NoCurrentTaskError):
            await asyncio.to_thread(current_task)

    async with TaskScope() as scope:
        await scope.schedule(from_thread)


async def test_current_task_of_the_handler() -> None:
    """An error handler belongs to the task whose error it handles."""
    seen: list[bool] = []

    async def fail() -> None:
        raise ValueError

    def handle(task: Task[..., Any], error: BaseException) -> None:
        seen.append(current_task() is task)

    async with TaskScope(config=TaskConfig(on_error=handle)) as scope:
        await scope.schedule(fail).wait()
    assert seen == [True]


async def test_no_current_task() -> None:
    """I7: outside of a task there is none, and the message says where to ask."""
    async with TaskScope():
        with pytest.raises(NoCurrentTaskError, match=r"in a function given to schedule\(\)"):
            current_task()


async def test_nested_task_is_its_own() -> None:
    """A task scheduled by another is itself the current one, and not the other."""
    async with TaskScope() as scope:

        async def inner() -> Task[..., Any]:
            return current_task()

        async def outer() -> bool:
            task = scope.schedule(inner)
            return await task is task and current_task() is not task

        assert await scope.schedule(outer)


# -- the current scope --------------------------------------------------------------------


async def test_current_scope() -> None:
    """The current scope is that of the innermost block, and of the task in it."""

    async def look() -> TaskScope:
        return current_scope()

    async with TaskScope() as outer:
        assert current_scope() is outer
        async with TaskScope() as inner:
            assert current_scope() is inner
            assert await inner.schedule(look) is inner
            assert await inner.schedule(current_scope) is inner
            # The scope of the running task, wherever it was scheduled from.
            assert await outer.schedule(look) is outer
            assert await outer.schedule(current_scope) is outer
        assert current_scope() is outer
    with pytest.raises(NoCurrentScopeError, match=r"'async with TaskScope\(\) as scope:'"):
        current_scope()


async def test_current_scope_opened_in_a_task() -> None:
    """A scope that a task opens is the current one inside its block, and no longer after."""

    async def look() -> TaskScope:
        return current_scope()

    async with TaskScope() as outer:

        async def open_scope() -> None:
            async with TaskScope() as own:
                assert current_scope() is own
                assert await asyncio.create_task(look()) is own
                assert await own.schedule(look) is own
            assert current_scope() is outer

        await outer.schedule(open_scope)


async def test_current_scope_of_a_unit() -> None:
    """In a unit of work the current scope is the unit's, wherever the unit is entered."""
    async with TaskScope() as scope, TaskScope() as other:

        async def serve() -> None:
            for _ in range(2):
                async with scope.lifecycle("end"):
                    assert current_scope() is scope
                    async with other.lifecycle("end"):
                        assert current_scope() is other
                    assert current_scope() is scope

        await other.schedule(serve)
        await asyncio.create_task(serve(), context=Context())
        assert current_scope() is other


async def test_no_current_scope() -> None:
    """I7: where there is no scope, the message says how to open one."""
    with pytest.raises(NoCurrentScopeError, match=r"open one with 'async with TaskScope\(\)"):
        current_scope()


async def test_scope_left_in_another_context() -> None:
    """A scope may be entered in one context and left in another, as fixtures do."""
    scope = TaskScope()
    await asyncio.create_task(scope.__aenter__())
    with pytest.raises(NoCurrentScopeError):
        current_scope()
    task = scope.schedule(max, 1, 2)
    await asyncio.create_task(scope.__aexit__(None, None, None))
    assert task.result() == 2


# -- check_cancelled ----------------------------------------------------------------------


class Loop:
    """Work in a thread that ends when it is told to stop."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.stopped = False

    def __call__(self) -> None:
        self.begun.set()
        try:
            while True:
                check_cancelled()
        except TaskCancelledError:
            self.stopped = True
            raise


async def test_check_cancelled_in_a_thread() -> None:
    """S6: a plain function that asks learns that its task was cancelled, and can stop."""
    work = Loop()
    async with TaskScope() as scope:
        task = scope.task(name="work").schedule(work)
        await task.started.wait()
        task.cancel()
        await task.wait()
        assert task.cancelled()
        assert work.stopped


@pytest.mark.virtual
async def test_check_cancelled_after_a_timeout() -> None:
    """S6: a plain function whose time is up learns it, and the task fails with the timeout."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualClockLoop)
    work = Loop()
    # Time stands still until the function has begun, and again from its timeout on.
    loop.busy = lambda: not work.begun.is_set() or loop.time() >= 5
    async with TaskScope(config=TaskConfig(on_error=keep_quiet)) as scope:
        task = scope.task(timeout=5).schedule(work)
        with pytest.raises(TaskTimeoutError):
            await task
        assert work.stopped
        loop.busy = lambda: False


async def test_check_cancelled_on_the_loop() -> None:
    """S6: a coroutine that is being cancelled can ask as well."""
    journal = Journal()

    async def work() -> None:
        check_cancelled()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            with pytest.raises(TaskCancelledError, match=r"task 'work' .* was asked to stop"):
                check_cancelled()
            journal.add("asked")
            raise

    async with TaskScope() as scope:
        task = scope.task(name="work").schedule(work)
        await task.started.wait()
        task.cancel()
        await task.wait()
        assert task.cancelled()
    assert journal.events == ["asked"]


async def test_check_cancelled_outside() -> None:
    """Outside of a task, and in one that nobody cancelled, the check does nothing."""
    check_cancelled()
    await asyncio.to_thread(check_cancelled)
    async with TaskScope() as scope:
        await scope.schedule(check_cancelled)

        async def work() -> None:
            check_cancelled()
            await asyncio.to_thread(check_cancelled)

        await scope.schedule(work)


def test_check_cancelled_without_a_loop() -> None:
    """A function that checks can be called where no event loop runs."""
    check_cancelled()


async def keep_quiet(task: Task[..., Any], error: BaseException) -> None:
    pass
