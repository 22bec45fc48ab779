"""Slots and places of one lane: none is lost or given twice, whatever comes in between."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, cast

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from taskcore import TaskScope, TaskState
from taskcore._lane import Lane
from taskcore._task import AnyTask
from taskcore.errors import BacklogFullError, ScopeClosedError
from tests.helpers import Outcome, cancel_at_every_await


class Waiting:
    """What a lane needs of a task that could start. Counts how often its state is read."""

    reads = 0

    def __init__(self, name: str = "work") -> None:
        self.name = name
        self.cancelled = False

    def __repr__(self) -> str:
        return self.name

    @property
    def _state(self) -> TaskState:
        Waiting.reads += 1
        return TaskState.CANCELLED if self.cancelled else TaskState.WAITING


def work(name: str = "work") -> AnyTask:
    """A task for a lane."""
    return cast("AnyTask", Waiting(name))


def accept(lane: Lane, task: AnyTask) -> bool:
    """Take a slot for a task, or let it wait, as the scope does; whether it has a slot."""
    if lane.take():
        return True
    lane.reserve(task)
    return lane.admit(task)


def cancel(lane: Lane, task: AnyTask) -> None:
    """Cancel a task that waits in the lane, as the scope does."""
    cast("Waiting", task).cancelled = True
    lane.withdraw()


def full_lane(limit: int = 1, backlog: int | None = 0) -> Lane:
    """A lane whose slots are all taken."""
    lane = Lane(None, limit, backlog, "app")
    for _ in range(limit):
        assert lane.take()
    return lane


# -- one lane against a model ------------------------------------------------------------------


class LaneMachine(RuleBasedStateMachine):
    """A lane beside the three plain lists that it stands for."""

    def __init__(self) -> None:
        super().__init__()
        self.running: list[AnyTask] = []
        self.waiting: list[AnyTask] = []
        self.reserved: list[AnyTask] = []

    @initialize(limit=st.integers(1, 3), backlog=st.none() | st.integers(0, 12))
    def create(self, limit: int, backlog: int | None) -> None:
        self.limit, self.backlog = limit, backlog
        self.lane = Lane(None, limit, backlog, "app")

    @property
    def has_room(self) -> bool:
        accepted = len(self.running) + len(self.waiting) + len(self.reserved)
        return self.backlog is None or accepted < self.limit + self.backlog

    def place(self, task: AnyTask, has_slot: bool) -> None:
        assert has_slot == (len(self.running) < self.limit)
        (self.running if has_slot else self.waiting).append(task)

    @rule()
    def accept(self) -> None:
        task = work()
        if self.has_room:
            self.place(task, accept(self.lane, task))
        else:
            with pytest.raises(BacklogFullError):
                accept(self.lane, task)

    @rule()
    def take(self) -> None:
        has_slot = self.has_room and len(self.running) < self.limit
        assert self.lane.take() == has_slot
        if has_slot:
            self.running.append(work())

    @rule()
    def reserve(self) -> None:
        task = work()
        if self.has_room:
            self.lane.reserve(task)
            self.reserved.append(task)
        else:
            with pytest.raises(BacklogFullError):
                self.lane.reserve(task)

    @precondition(lambda self: self.reserved)
    @rule(data=st.data())
    def reach(self, data: st.DataObject) -> None:
        task = self.reserved.pop(data.draw(st.integers(0, len(self.reserved) - 1)))
        self.place(task, self.lane.admit(task))

    @precondition(lambda self: self.reserved)
    @rule()
    def cancel_reservation(self) -> None:
        self.reserved.pop()
        self.lane.cancel_reservation()

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def cancel_waiting(self, data: st.DataObject) -> None:
        cancel(self.lane, self.waiting.pop(data.draw(st.integers(0, len(self.waiting) - 1))))

    @precondition(lambda self: self.running)
    @rule()
    def release(self) -> None:
        self.running.pop()
        heir = self.lane.release()
        assert heir is (self.waiting[0] if self.waiting else None)
        if heir is not None:
            self.running.append(self.waiting.pop(0))

    @invariant()
    def figures_are_those_of_the_model(self) -> None:
        assert self.lane.taken == len(self.running) <= self.limit
        assert self.lane.waiting == len(self.waiting)
        assert self.lane.reserved == len(self.reserved)
        assert self.lane.is_full() != self.has_room
        assert not self.waiting or len(self.running) == self.limit


@pytest.mark.parametrize("short", [0, 1_000])
def test_any_order_of_moves(short: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """L4: no slot or place is lost or given twice, in any order of moves, and order is kept."""
    monkeypatch.setattr("taskcore._lane._SHORT", short)
    run_state_machine_as_test(
        LaneMachine, settings=settings(max_examples=60, stateful_step_count=50, deadline=None)
    )


def test_cancelled_places_are_cleared_in_linear_time() -> None:
    """Cancelling twice as many waiting tasks costs twice as much, and leaves no place behind."""

    def cost(count: int) -> int:
        lane = full_lane(backlog=None)
        tasks = [work() for _ in range(count)]
        for task in tasks:
            assert not accept(lane, task)
        before = Waiting.reads
        for task in tasks:
            cancel(lane, task)
        assert lane.waiting == 0
        assert lane.release() is None
        return Waiting.reads - before

    assert cost(20_000) - cost(10_000) < 20 * 10_000


# -- room --------------------------------------------------------------------------------------


async def feed(lane: Lane, name: str, order: list[str]) -> None:
    """Wait for room, and take it."""
    await lane.wait_for_room()
    accept(lane, work(name))
    order.append(name)


async def turns(count: int = 5) -> None:
    """Let the loop turn a few times."""
    for _ in range(count):
        await asyncio.sleep(0)


async def test_room_is_given_in_order() -> None:
    """L1: each room wakes one of those who wait for it, the first first."""
    lane, order = full_lane(), list[str]()
    feeders = [asyncio.create_task(feed(lane, name, order)) for name in "abc"]
    await turns()
    assert order == []
    for got in ("a", "ab", "abc"):
        lane.release()
        await turns()
        assert "".join(order) == got
        assert lane.is_full()
    await asyncio.gather(*feeders)


async def test_two_rooms_at_once_wake_two() -> None:
    """Room that comes twice before the first one wakes is not lost for the second."""
    lane, order = full_lane(limit=2), list[str]()
    feeders = [asyncio.create_task(feed(lane, name, order)) for name in "abc"]
    await turns()
    lane.release()
    lane.release()
    await turns()
    assert order == ["a", "b"]
    lane.release()
    await asyncio.gather(*feeders)


@pytest.mark.parametrize("leave", ["release", "withdraw", "cancel_reservation"])
async def test_every_way_to_leave_makes_room(leave: str) -> None:
    """L1: room comes from a task that ends, a waiting one or a deferred one cancelled."""
    lane, order = full_lane(backlog=1), list[str]()
    waiting = work()
    if leave == "cancel_reservation":
        lane.reserve(waiting)
    else:
        accept(lane, waiting)
    feeder = asyncio.create_task(feed(lane, "a", order))
    await turns()
    assert order == []
    ways: dict[str, Callable[[], object]] = {
        "release": lane.release,
        "withdraw": lambda: cancel(lane, waiting),
        "cancel_reservation": lane.cancel_reservation,
    }
    ways[leave]()
    await turns()
    assert feeder.done()
    assert order == ["a"]


async def test_woken_too_late_keeps_its_place() -> None:
    """One who finds its room taken by a task that did not wait is the first for the next."""
    lane, order = full_lane(), list[str]()
    feeders = [asyncio.create_task(feed(lane, name, order)) for name in "ab"]
    await turns()
    lane.release()
    assert lane.take()  # a thief
    await turns()
    assert order == []
    lane.release()
    await turns()
    assert order == ["a"]
    lane.release()
    await asyncio.gather(*feeders)


async def test_newcomer_waits_behind_one_who_was_woken() -> None:
    """L1: who asks for room while a woken one has not resumed yet does not get ahead of it."""
    lane, order = full_lane(), list[str]()
    first = asyncio.create_task(feed(lane, "first", order))
    await turns()
    newcomer = asyncio.create_task(feed(lane, "newcomer", order))
    lane.release()  # wakes the first, behind the newcomer's own first step
    await turns()
    assert order == ["first"]
    lane.release()
    await asyncio.gather(first, newcomer)


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("thief", [False, True])
async def test_cancelled_while_waiting_for_room(late: bool, thief: bool) -> None:
    """L4: one who is cancelled at any await, even just woken, passes the room to the next."""
    lane = full_lane()
    helpers: list[asyncio.Task[None]] = []

    async def make_room() -> None:
        await turns(3)
        lane.release()
        if thief:
            lane.take()
            await turns()
            lane.release()

    async def feed_next() -> None:
        await asyncio.sleep(0)  # also where tasks begin eagerly, it comes second
        await feed(lane, "next", [])

    async def procedure() -> None:
        nonlocal lane
        lane = full_lane()
        helpers[:] = [
            asyncio.create_task(make_room()),
            asyncio.create_task(feed_next()),
        ]
        await lane.wait_for_room()
        assert lane.take()

    async def the_next_gets_room(outcome: Outcome[None]) -> None:
        await helpers[0]
        if not outcome.cancelled:
            await turns()
            assert not helpers[1].done()
            lane.release()
        await turns()
        assert helpers[1].done()
        assert lane.taken == 1

    outcomes = await cancel_at_every_await(procedure, times=2, late=late, check=the_next_gets_room)
    assert any(outcome.cancelled for outcome in outcomes)


# -- a thread between two steps of the scope -----------------------------------------------------


async def test_refused_in_a_thread_while_the_last_task_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """L4: a scope that becomes idle while a thread is being refused does not wait for ever."""
    loop, gate = asyncio.get_running_loop(), asyncio.Event()

    class SlowToRefuse(Lane):
        """Between the refusal and its news, the task that filled the lane ends."""

        def reserve(self, task: AnyTask) -> None:
            try:
                super().reserve(task)
            except BacklogFullError:
                asyncio.run_coroutine_threadsafe(last_task_ends(), loop).result()
                raise

    async def last_task_ends() -> None:
        gate.set()
        await holder.wait()
        await turns()

    monkeypatch.setattr("taskcore._scope.Lane", SlowToRefuse)
    scope = TaskScope(limit=1, backlog=0)
    async with scope:
        holder = scope.schedule(gate.wait)
        idle = asyncio.create_task(scope.wait_idle())
        with pytest.raises(BacklogFullError):
            await asyncio.to_thread(scope.schedule, turns)
        await turns()
        was_told = idle.done()
        scope.schedule(turns)  # the end of another task wakes whoever was forgotten
    await idle
    assert was_told


async def test_drained_between_place_and_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """L4: a task of a thread that a drain ends as it gets its place never runs, and leaves it."""
    loop, began = asyncio.get_running_loop(), list[str]()
    lanes: list[Lane] = []

    class SlowToReserve(Lane):
        """Between the place and the start, the scope is drained."""

        def reserve(self, task: AnyTask) -> None:
            super().reserve(task)
            drain()

    def drain() -> None:
        asyncio.run_coroutine_threadsafe(scope.drain(grace_period=0.0), loop).result()

    def make_lane(*args: Any) -> Lane:
        lanes.append(SlowToReserve(*args))
        return lanes[-1]

    async def begin() -> None:
        began.append("began")

    def schedule() -> None:
        with contextlib.suppress(ScopeClosedError):
            scope.schedule(begin)

    monkeypatch.setattr("taskcore._scope.Lane", make_lane)
    async with TaskScope(limit=1, backlog=1) as scope:
        await asyncio.to_thread(schedule)
    await turns()
    assert began == []
    assert [(lane.taken, lane.waiting, lane.reserved) for lane in lanes] == [(0, 0, 0)]
