"""Statistics: every task is counted once, limits and workers are shown as they are used."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import threading
from typing import Any

import pytest

from taskcore import ScopeState, ScopeStatistics, Task, TaskEvent, TaskScope
from taskcore.spi import LaneStatistics, PoolStatistics

UNFINISHED = ("deferred", "waiting", "scheduled", "running")
FINAL = ("succeeded", "failed", "cancelled", "skipped", "abandoned")


def counts(statistics: ScopeStatistics) -> dict[str, int]:
    """The tasks by state, those that have none left out."""
    by_state = {state: getattr(statistics, state) for state in (*UNFINISHED, *FINAL)}
    return {state: count for state, count in by_state.items() if count}


async def nothing() -> None:
    pass


async def fail() -> None:
    raise ValueError


async def swallow() -> None:
    """Ignores one cancellation, and is stuck for good."""
    try:
        await asyncio.Event().wait()
    finally:
        await asyncio.sleep(60)


async def ignore(task: Task[..., Any], error: BaseException) -> None:
    pass


def test_of_a_new_scope() -> None:
    """Before it is entered a scope has nothing, and its limits and sizes are known."""
    scope = TaskScope(name="app", limit=2, lanes={"mail": 1}, threads=3, processes=4)
    statistics = scope.statistics()
    assert (statistics.name, statistics.state) == ("app", ScopeState.NEW)
    assert counts(statistics) == {}
    assert statistics.lanes == (
        LaneStatistics(None, limit=2, backlog=None, running=0, waiting=0, deferred=0),
        LaneStatistics("mail", limit=1, backlog=None, running=0, waiting=0, deferred=0),
    )
    assert statistics.threads == PoolStatistics(size=3, busy=0, idle=0, queued=0)
    assert statistics.processes == PoolStatistics(size=4, busy=0, idle=0, queued=0)


def test_of_a_scope_with_defaults() -> None:
    """Without limits there are no lanes, and there is a process for each processor."""
    statistics = TaskScope().statistics()
    assert statistics.lanes == ()
    assert statistics.processes.size == os.cpu_count()


async def test_is_a_snapshot() -> None:
    """What was taken stays as it is, and cannot be changed."""
    async with TaskScope() as scope:
        before = scope.statistics()
        await scope.schedule(nothing)
        assert counts(before) == {}
        assert counts(scope.statistics()) == {"succeeded": 1}
    with pytest.raises(dataclasses.FrozenInstanceError):
        before.running = 1  # type: ignore[misc]


async def test_unfinished_tasks() -> None:
    """Tasks that have not ended are counted by what they do or wait for."""
    release = asyncio.Event()
    async with TaskScope(limit=2, lanes={"free": 9}) as scope:
        unit = scope.lifecycle("end")
        unit.phase("end").schedule(nothing)
        unit.phase("end").schedule(nothing)
        scope.task(delay=60).schedule(nothing).cancel()
        delayed = scope.task(delay=60).schedule(nothing)
        for _ in range(4):
            scope.schedule(release.wait)
        running = scope.schedule(release.wait)
        for _ in range(4):
            scope.task(lane="free").schedule(nothing)
        scheduled = scope.statistics()
        assert counts(scheduled) == {"deferred": 3, "scheduled": 6, "waiting": 3, "cancelled": 1}
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert counts(scope.statistics()) == {
            **{"deferred": 3, "running": 2, "waiting": 3},
            **{"cancelled": 1, "succeeded": 4},
        }
        own, free = scope.statistics().lanes
        assert (own.running, own.waiting, own.deferred) == (2, 3, 3)
        assert (free.running, free.waiting, free.deferred) == (0, 0, 0)
        release.set()
        delayed.cancel()
        unit.close()
        await running
    assert counts(scope.statistics()) == {"cancelled": 2, "succeeded": 11}


@pytest.mark.parametrize("limit", [None, 1], ids=["bare", "limited"])
@pytest.mark.virtual
async def test_ended_tasks(limit: int | None, caplog: pytest.LogCaptureFixture) -> None:
    """How tasks ended is counted since the scope opened, also once it has closed."""
    async with TaskScope(limit=limit, grace_period=0) as scope:
        for _ in range(4):
            await scope.schedule(nothing)
        for _ in range(3):
            await scope.task(on_error=ignore).schedule(fail).wait()
        for _ in range(2):
            scope.schedule(nothing).cancel()
        async with scope.lifecycle("end") as unit:
            unit.phase("end").task(when="failure").schedule(nothing)
        await scope.schedule(swallow).started.wait() if limit is None else scope.schedule(swallow)
        await asyncio.sleep(0)
        await scope.drain(shield_timeout=0)
        await asyncio.sleep(120)  # what was abandoned ends after all, and is counted once
    assert scope.statistics().state is ScopeState.CLOSED
    assert counts(scope.statistics()) == {
        **{"succeeded": 4, "failed": 3, "cancelled": 2, "skipped": 1, "abandoned": 1},
    }
    caplog.clear()


@pytest.mark.parametrize("limit", [None, 2], ids=["bare", "limited"])
@pytest.mark.virtual
async def test_every_task_is_counted_once(limit: int | None) -> None:
    """S3: at each event, up to the end of the drain, the figures add up to what was accepted."""
    accepted: set[Task[..., Any]] = set()
    sums: list[tuple[int, int]] = []

    def watch(event: TaskEvent) -> None:
        accepted.add(event.task)
        sums.append((sum(counts(scope.statistics()).values()), len(accepted)))
        for lane in scope.statistics().lanes:
            assert 0 <= lane.running <= lane.limit
            assert lane.waiting >= 0
            assert lane.deferred >= 0

    async with TaskScope(limit=limit, grace_period=1, observers=[watch]) as scope:
        unit = scope.lifecycle("first", "last")
        for _ in range(3):
            scope.schedule(nothing)
            scope.task(on_error=ignore).schedule(fail)
            scope.task(delay=2).schedule(nothing)
            scope.schedule(asyncio.sleep, 3)
            scope.schedule(nothing).cancel()
            scope.task(shield=True).schedule(asyncio.sleep, 2)
            for phase in ("first", "last"):
                unit.phase(phase).task(when="failure").schedule(nothing)
                unit.phase(phase).schedule(nothing)
        unit.advance("first")
        await asyncio.sleep(1)
        await scope.drain()
    assert len(accepted) == 30
    assert [counted for counted, _ in sums] == [known for _, known in sums]
    assert sum(counts(scope.statistics()).values()) == 30


async def test_lanes() -> None:
    """L1: each limit shows its slots and its queue; the scope's own comes first."""
    release = asyncio.Event()
    async with TaskScope(limit=1, backlog=5, lanes={"mail": 2}) as scope:
        for _ in range(3):
            scope.schedule(release.wait)
            scope.task(lane="mail").schedule(release.wait)
        later = scope.task(lane="mail", delay=60).schedule(nothing)
        own, mail = scope.statistics().lanes
        assert own == LaneStatistics(None, limit=1, backlog=5, running=1, waiting=2, deferred=0)
        assert mail == LaneStatistics("mail", limit=2, backlog=5, running=2, waiting=1, deferred=1)
        release.set()
        later.cancel()


async def test_threads() -> None:
    """I5: busy workers, idle ones, and the functions that wait for one are shown."""
    release = threading.Event()
    async with TaskScope(threads=2) as scope:
        tasks = [scope.schedule(release.wait) for _ in range(4)]
        await tasks[0].started.wait()
        await tasks[1].started.wait()
        assert scope.statistics().threads == PoolStatistics(size=2, busy=2, idle=0, queued=2)
        tasks[3].cancel()
        await tasks[3].wait()
        assert scope.statistics().threads.queued == 1
        release.set()
        for task in tasks[:3]:
            await task
        while scope.statistics().threads.busy:  # noqa: ASYNC110 (no event tells of it)
            await asyncio.sleep(0)
        assert scope.statistics().threads == PoolStatistics(size=2, busy=0, idle=2, queued=0)


async def test_tasks_on_their_way_from_a_thread() -> None:
    """I8: what a thread has scheduled is counted before the loop has seen it."""
    async with TaskScope() as scope:
        thread = threading.Thread(target=scope.schedule, args=(nothing,))
        thread.start()
        thread.join()  # and the loop stands still
        assert counts(scope.statistics()) == {"scheduled": 1}
    assert counts(scope.statistics()) == {"succeeded": 1}


async def test_from_a_thread() -> None:
    """I8: statistics may be taken in any thread, while the loop changes the books."""
    taken: list[ScopeStatistics] = []
    stop = threading.Event()

    def take(scope: TaskScope) -> None:
        while not stop.wait(0.001):  # it leaves the interpreter to the others in between
            taken.append(scope.statistics())

    async with TaskScope(limit=50, lanes={"mail": 1}) as scope:
        taking = asyncio.create_task(asyncio.to_thread(take, scope))
        for _ in range(20):
            unit = scope.lifecycle("end")
            for _ in range(10):
                scope.schedule(nothing)
                scope.schedule(max, 1, 2)
                unit.phase("end").schedule(nothing)
            unit.close()
            await asyncio.sleep(0)
        stop.set()
        await taking
    assert taken
    assert all(count >= 0 for one in taken for count in counts(one).values())
    ended = [one.succeeded for one in taken]
    assert ended == sorted(ended)
    assert counts(scope.statistics()) == {"succeeded": 600}
