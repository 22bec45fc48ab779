"""The asyncio tasks that a task starts itself: whose they are, and what they share with it."""

from __future__ import annotations

import asyncio
import gc
import sys
import weakref
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest

from taskcore import Task, TaskScope, current_task
from taskcore.errors import NoCurrentTaskError, TaskCancelledError
from taskcore.spi import current_unit
from tests.helpers import Journal

Start = Callable[[Callable[[], Awaitable[None]]], Awaitable[Any]]


async def in_gather(child: Callable[[], Awaitable[None]]) -> None:
    await asyncio.gather(child())


async def in_group(child: Callable[[], Any]) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(child())


async def in_wait_for(child: Callable[[], Awaitable[None]]) -> None:
    await asyncio.wait_for(child(), 5)


async def in_grandchild(child: Callable[[], Awaitable[None]]) -> None:
    async def middle() -> None:
        await in_gather(child)

    await in_group(middle)


STARTS = [in_gather, in_group, in_wait_for, in_grandchild]


@pytest.mark.parametrize("start", STARTS)
async def test_current_task(start: Start) -> None:
    """An asyncio task that a function starts is part of its task."""
    seen: list[Task[..., Any]] = []

    async def ask() -> None:
        seen.append(current_task())
        await asyncio.sleep(0)
        seen.append(current_task())

    async with TaskScope() as scope:
        task = scope.schedule(start, ask)
        await task
    assert seen == [task, task]


async def test_child_of_nobody() -> None:
    """What is started outside of a task is no part of any."""

    async def ask() -> None:
        with pytest.raises(NoCurrentTaskError):
            current_task()

    async with TaskScope():
        await asyncio.create_task(ask())


async def test_child_that_outlives_its_task() -> None:
    """A child is on its own once its task has ended, and does not hold it."""
    release = asyncio.Event()
    left: list[asyncio.Task[None]] = []

    async def later() -> None:
        assert current_task().name == "short"
        await release.wait()
        with pytest.raises(NoCurrentTaskError):
            current_task()

    async def short() -> None:
        left.append(asyncio.create_task(later()))
        await asyncio.sleep(0)

    async with TaskScope() as scope:
        task = scope.task(name="short").schedule(short)
        await task
        gone = weakref.ref(task)
        del task
        gc.collect()
        assert gone() is None
        release.set()
        await left[0]


async def test_task_that_drains_from_a_child() -> None:
    """A child cannot drain the scope that would wait for its task, and is told so."""

    async def drain() -> None:
        await asyncio.create_task(scope.drain())

    async with TaskScope() as scope:
        task = scope.schedule(drain)
        await task.wait()
    assert "would wait for it" in str(task.exception())


async def test_unit_made_in_a_child() -> None:
    """T5: a unit that a child makes belongs to its task, and a drain waits for its phases."""
    journal = Journal()
    begun, release = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        async with scope.lifecycle("done") as unit:
            assert current_unit() is unit
            unit.phase("done").schedule(journal.add, "deferred")
            begun.set()
            await release.wait()

    async with TaskScope() as scope:
        scope.schedule(in_gather, work)
        await begun.wait()
        draining = asyncio.create_task(scope.drain())
        await asyncio.sleep(0)
        release.set()
        await draining
    assert journal.events == ["deferred"]


@pytest.mark.parametrize("start", STARTS)
async def test_shielded_child_schedules_while_drained(start: Start) -> None:
    """S2: what the child of a shielded task schedules during the drain is taken."""
    begun, release = asyncio.Event(), asyncio.Event()
    journal = Journal()

    async def follow_up() -> None:
        journal.add("followed up")

    async def child() -> None:
        begun.set()
        await release.wait()
        scope.schedule(follow_up)

    async with TaskScope() as scope:
        scope.task(shield=True).schedule(start, child)
        await begun.wait()
        draining = asyncio.create_task(scope.drain())
        await asyncio.sleep(0)
        release.set()
        report = await draining
    assert journal.events == ["followed up"]
    assert len(report.succeeded) == 2


@pytest.mark.parametrize("start", STARTS)
async def test_cancelled_parent(start: Start) -> None:
    """Cancelling a shielded task reaches the children that it waits for."""
    begun = asyncio.Event()

    async def child() -> None:
        begun.set()
        await asyncio.Event().wait()

    async with TaskScope() as scope:
        task = scope.task(shield=True).schedule(start, child)
        await begun.wait()
        task.cancel()
        with pytest.raises(TaskCancelledError):
            await task


async def test_child_left_behind_is_listed_again() -> None:
    """S2: asyncio lists what a shielded task left behind, so that its clean-up ends it."""
    left: list[asyncio.Task[bool]] = []

    async def leave() -> None:
        left.append(asyncio.create_task(asyncio.Event().wait()))
        left.append(asyncio.create_task(asyncio.Event().wait()))
        left[1].cancel()
        await asyncio.sleep(0)
        assert not asyncio.all_tasks() & set(left)

    async with TaskScope() as scope:
        await scope.task(shield=True).schedule(leave)
        await asyncio.sleep(0)
        assert asyncio.all_tasks() & set(left) == {left[0]}
        left[0].cancel()


# -- the loop's task factory ---------------------------------------------------------------------


async def test_factory_is_given_back() -> None:
    """The loop has its task factory back when the last scope has closed."""
    loop = asyncio.get_running_loop()
    before = loop.get_task_factory()
    first, second = TaskScope(), TaskScope()
    await first.__aenter__()
    ours = loop.get_task_factory()
    assert ours is not before
    await second.__aenter__()
    await first.drain()
    assert loop.get_task_factory() is ours
    await second.drain()
    assert loop.get_task_factory() is before


async def test_factory_put_over_ours_stays() -> None:
    """Whoever sets a task factory while a scope is open keeps it."""
    loop = asyncio.get_running_loop()
    before = loop.get_task_factory()

    def theirs(loop: Any, coro: Any, **options: Any) -> asyncio.Task[Any]:
        return asyncio.Task(coro, loop=loop, **options)

    async with TaskScope() as scope:
        loop.set_task_factory(theirs)
        await scope.schedule(in_gather, partial(asyncio.sleep, 0))
    assert loop.get_task_factory() is theirs
    loop.set_task_factory(before)


async def test_factory_under_ours_is_used() -> None:
    """The task factory that the loop had makes the children, whatever it makes them from."""
    loop = asyncio.get_running_loop()
    before = loop.get_task_factory()
    made: list[str] = []

    class Theirs(asyncio.Future[Any]):
        """Behaves enough like a task for `gather`."""

        def set_name(self, name: str | None) -> None:
            """As Python 3.13 asks of it."""

    def factory(loop: Any, coro: Any, **options: Any) -> Any:
        made.append(coro.__name__)
        coro.close()
        answer = Theirs(loop=loop)
        answer.set_result(None)
        return answer

    async def child() -> None:
        raise AssertionError

    loop.set_task_factory(factory)
    try:
        async with TaskScope() as scope:
            await scope.schedule(in_gather, child)
    finally:
        loop.set_task_factory(before)
    assert "child" in made


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with Python 3.12")
@pytest.mark.virtual  # uvloop passes on an option that the eager factory of Python 3.13 refuses
async def test_eager_grandchild() -> None:
    """A child that an eager child starts in its first step has the same root."""
    loop = asyncio.get_running_loop()
    before = loop.get_task_factory()
    loop.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined, unused-ignore]
    seen: list[Task[..., Any]] = []

    async def ask() -> None:
        await asyncio.sleep(0)
        seen.append(current_task())

    try:
        async with TaskScope() as scope:
            task = scope.schedule(in_grandchild, ask)
            await task
    finally:
        loop.set_task_factory(before)
    assert seen == [task]
