"""Limits of a scope: how many tasks run, how many wait, and who is refused."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import pickle
import threading
from collections.abc import Awaitable, Callable
from typing import Any

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

from taskcore import Task, TaskConfig, TaskEvent, TaskScope, TaskState
from taskcore._clock import VirtualClockLoop
from taskcore.errors import (
    BacklogFullError,
    ConfigTypeError,
    ConfigValueError,
    ScopeClosedError,
    WrongLoopError,
)
from tests.helpers import Journal

AnyTask = Task[..., Any]


async def nothing() -> None:
    """A task that is over at once."""


async def ignore(task: AnyTask, error: BaseException) -> None:
    """An error handler that is content."""


async def turns(count: int = 5) -> None:
    """Let the loop turn a few times."""
    for _ in range(count):
        await asyncio.sleep(0)


async def swallow_cancellations() -> None:
    """A task that ignores every cancellation."""
    while True:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.get_running_loop().create_future()


# -- L1: how many run, how many wait ------------------------------------------------------------


async def test_at_most_limit_run_at_once() -> None:
    """L1: `limit` tasks run at once, the others wait and start as slots come free."""
    running, most = 0, 0

    async def count() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1

    async with TaskScope(limit=3) as scope:
        tasks = [scope.schedule(count) for _ in range(20)]
        states = [task.state for task in tasks]
    assert states == [TaskState.SCHEDULED] * 3 + [TaskState.WAITING] * 17
    assert most == 3
    assert {task.state for task in tasks} == {TaskState.SUCCEEDED}


async def test_beyond_limit_and_backlog_is_refused() -> None:
    """L1: one more than `limit` and `backlog` is refused with the figures, and never runs."""
    gate, ran = asyncio.Event(), list[str]()

    async def wait(name: str) -> None:
        await gate.wait()
        ran.append(name)

    async with TaskScope(limit=1, backlog=2, name="app") as scope:
        for name in "abc":
            scope.schedule(wait, name)
        with pytest.raises(BacklogFullError) as caught:
            scope.task(name="report").schedule(wait, "d")
        gate.set()
    error = caught.value
    assert (error.limit, error.backlog, error.running, error.waiting) == (1, 2, 1, 2)
    assert error.lane is None
    assert str(error) == (
        "cannot schedule 'report': scope 'app' is full (1 running of limit=1, 2 waiting of "
        "backlog=2); answer 503, raise the limits, or 'await scope.wait_for_room()' "
        "before you schedule"
    )
    assert ran == ["a", "b", "c"]


async def test_plain_function_is_refused_as_well() -> None:
    """L1: a plain function or a partial beyond the limits is refused, and never runs."""
    gate, ran = asyncio.Event(), list[str]()
    async with TaskScope(limit=1, backlog=0) as scope:
        scope.schedule(gate.wait)
        with pytest.raises(BacklogFullError):
            scope.schedule(ran.append, "ran")
        gate.set()
    assert ran == []


def pickled(error: BacklogFullError) -> Any:
    return pickle.loads(pickle.dumps(error))


@pytest.mark.parametrize("again", [pickled, copy.copy])
async def test_figures_survive_pickling(
    again: Callable[[BacklogFullError], BacklogFullError],
) -> None:
    """L1: the error and its figures survive pickling and copying."""
    gate = asyncio.Event()
    async with TaskScope(backlog=0, lanes={"mail": 2}) as scope:
        mail = scope.task(lane="mail")
        for _ in range(2):
            mail.schedule(gate.wait)
        with pytest.raises(BacklogFullError, match="lane 'mail' of scope") as caught:
            mail.schedule(nothing)
        gate.set()
    error = again(caught.value)
    assert type(error) is BacklogFullError
    assert str(error) == str(caught.value)
    assert vars(error) == vars(caught.value)
    assert (error.limit, error.running, error.waiting, error.lane) == (2, 2, 0, "mail")


async def test_refused_task_leaves_no_trace() -> None:
    """L1: of a refused task no observer hears, and nothing waits for it."""
    gate, journal = asyncio.Event(), Journal()
    async with TaskScope(limit=1, backlog=0, observers=[journal.add]) as scope:
        holder = scope.schedule(gate.wait)
        with pytest.raises(BacklogFullError):
            scope.schedule(nothing)
        gate.set()
        await scope.wait_idle()
    events = [event for event in journal.events if isinstance(event, TaskEvent)]
    assert {event.task for event in events} == {holder}


@pytest.mark.virtual
async def test_refused_shielded_task_does_not_hold_the_drain() -> None:
    """L1: a drain does not wait for what a shielded task was refused."""
    refused: list[str] = []

    async def parent() -> None:
        await asyncio.sleep(1)
        with pytest.raises(BacklogFullError):
            scope.schedule(nothing)
        refused.append("refused")

    async with TaskScope(limit=1, backlog=0) as scope:
        scope.task(shield=True).schedule(parent)
        await turns()
        report = await scope.drain(grace_period=0, shield_timeout=100)
    assert refused == ["refused"]
    assert report.duration == 1


async def test_deferred_tasks_count_and_are_never_refused_later() -> None:
    """L1: a deferred task holds its place from `schedule` on, and starts in any crowd."""
    gate, ran = asyncio.Event(), list[str]()

    async def note(name: str) -> None:
        ran.append(name)
        await gate.wait()

    async with TaskScope(limit=1, backlog=2) as scope:
        async with scope.lifecycle("end") as unit:
            end = unit.phase("end")
            end.schedule(note, "deferred 1")
            end.schedule(note, "deferred 2")
            scope.schedule(note, "immediate")
            for full in (scope, end):
                with pytest.raises(BacklogFullError) as caught:
                    full.schedule(note, "refused")
                assert caught.value.waiting == 2
        gate.set()
    assert ran == ["immediate", "deferred 1", "deferred 2"]


async def test_deferred_task_has_its_slot_for_sure() -> None:
    """L1: without a backlog, the slot of a deferred task is given to nobody else, though free."""
    release = asyncio.Event()
    async with TaskScope(limit=2, backlog=0) as scope, scope.lifecycle("end") as unit:
        deferred = unit.phase("end").schedule(nothing)
        running = scope.schedule(release.wait)
        with pytest.raises(BacklogFullError, match=r"1 running of limit=2, 1 waiting"):
            scope.schedule(nothing)
        assert not deferred.done()
        release.set()
        assert await running


async def test_deferred_tasks_never_make_more_wait_than_the_backlog() -> None:
    """L1: deferred and running tasks together stay within `limit` and `backlog`."""
    gate = asyncio.Event()
    tasks: list[AnyTask] = []
    async with TaskScope(limit=2, backlog=1) as scope:
        async with scope.lifecycle("end") as unit:
            for target in [unit.phase("end"), scope] * 5:
                with contextlib.suppress(BacklogFullError):
                    tasks.append(target.schedule(gate.wait))
        waiting = [task for task in tasks if task.state is TaskState.WAITING]
        gate.set()
    assert len(tasks) == 3
    assert len(waiting) == 1


@pytest.mark.parametrize("end", ["cancelled", "skipped", "started"])
async def test_deferred_task_gives_its_place_back(end: str) -> None:
    """L4: a deferred task that is cancelled, skipped or done leaves its place to another."""
    async with TaskScope(limit=1, backlog=0) as scope:
        when = "failure" if end == "skipped" else "success"
        async with scope.lifecycle("end") as unit:
            deferred = unit.phase("end").task(when=when).schedule(nothing)  # type: ignore[arg-type]
            with pytest.raises(BacklogFullError):
                unit.phase("end").schedule(nothing)
            feeder = asyncio.create_task(scope.wait_for_room())
            await turns()
            assert not feeder.done()
            if end == "cancelled":
                deferred.cancel()
        await deferred.wait()
        await feeder
        await scope.schedule(nothing)


# -- L1: room -----------------------------------------------------------------------------------


@pytest.mark.virtual
async def test_feeding_many_items_keeps_the_backlog_constant() -> None:
    """L1: 100,000 items pass through `limit=50, backlog=100`; never more than 150 are held."""
    most = alive = done = 0

    async def handle() -> None:
        nonlocal alive, done
        await asyncio.sleep(0)
        alive -= 1
        done += 1

    async with TaskScope(limit=50, backlog=100) as scope:
        for _ in range(100_000):
            await scope.wait_for_room()
            scope.schedule(handle)
            alive += 1
            most = max(most, alive)
    assert done == 100_000
    assert most == 150


async def test_many_feeders_share_the_room() -> None:
    """L1: feeders that wait for room are never refused, and each gets its turn."""
    fed: list[int] = []

    async def feed(number: int) -> None:
        for _ in range(20):
            await scope.wait_for_room()
            scope.schedule(nothing)
            fed.append(number)

    async with TaskScope(limit=2, backlog=1) as scope:
        await asyncio.gather(*(feed(number) for number in range(10)))
    assert len(fed) == 200
    # Each turn of the line serves everyone once.
    assert {fed.count(number) for number in range(10)} == {20}
    assert all(fed[:150].count(number) >= 10 for number in range(10))


async def test_no_limit_always_has_room() -> None:
    """L1: without a limit, or without a backlog, `wait_for_room` returns at once."""
    gate = asyncio.Event()
    for scope in (TaskScope(), TaskScope(limit=1)):
        async with scope:
            for _ in range(3):
                scope.schedule(gate.wait)
                await scope.wait_for_room()
            gate.set()


async def test_drain_wakes_who_waits_for_room() -> None:
    """L1: who waits for room when the scope ends is woken, and refused by `schedule`."""
    refused: list[str] = []

    async def feed() -> None:
        await scope.wait_for_room()
        with pytest.raises(ScopeClosedError):
            scope.schedule(nothing)
        refused.append("refused")

    async with TaskScope(limit=1, backlog=1) as scope:
        for _ in range(2):
            scope.schedule(asyncio.Event().wait)
        feeders = [asyncio.create_task(feed()) for _ in range(3)]
        await turns()
        await scope.drain(grace_period=0)
        await asyncio.gather(*feeders)
    assert refused == ["refused"] * 3


async def test_waiting_for_room_on_another_loop_is_refused() -> None:
    """I7: `wait_for_room` on another event loop than the scope's says where to call it."""
    gate = asyncio.Event()

    async def elsewhere(scope: TaskScope) -> None:
        async with asyncio.timeout(1):
            await scope.wait_for_room()

    async with TaskScope(limit=1, backlog=0) as scope:
        scope.schedule(gate.wait)
        try:
            with pytest.raises(WrongLoopError, match="call it there"):
                await asyncio.to_thread(asyncio.run, elsewhere(scope))
        finally:
            gate.set()


# -- L1: from threads ----------------------------------------------------------------------------


async def test_overload_from_threads_and_the_loop_together() -> None:
    """L1: however many schedule at once, exactly `limit + backlog` are accepted, and all run."""
    gate, ran = asyncio.Event(), list[int]()
    accepted: list[int] = []
    refused: list[BacklogFullError] = []

    async def work(number: int) -> None:
        await gate.wait()
        ran.append(number)

    def flood(numbers: range) -> None:
        for number in numbers:
            try:
                scope.schedule(work, number)
            except BacklogFullError as error:
                refused.append(error)
            else:
                accepted.append(number)

    async with TaskScope(limit=7, backlog=50) as scope:
        start = threading.Barrier(4)

        def flood_together(first: int) -> None:
            start.wait()
            flood(range(first, first + 50))

        threads = [
            asyncio.create_task(asyncio.to_thread(flood_together, 100 * n)) for n in range(4)
        ]
        while not all(thread.done() for thread in threads):
            flood(range(1_000, 1_003))
            await asyncio.sleep(0)
        gate.set()
    assert len(accepted) == 57
    assert sorted(ran) == sorted(accepted)
    assert all(error.running + error.waiting == 57 for error in refused)


async def test_threads_feed_while_tasks_end() -> None:
    """L1, L4: threads that are refused try again; at no moment is more accepted than allowed."""
    lock, held, most, ran = threading.Lock(), 0, 0, 0

    async def work() -> None:
        nonlocal held, ran
        await asyncio.sleep(0)
        with lock:
            held -= 1
            ran += 1

    def feed() -> None:
        nonlocal held, most
        for _ in range(200):
            while True:
                with lock:
                    try:
                        scope.schedule(work)
                    except BacklogFullError:
                        pass
                    else:
                        held += 1
                        most = max(most, held)
                        break
                turned.wait(0.001)

    turned = threading.Event()
    async with TaskScope(limit=2, backlog=3) as scope:
        await asyncio.gather(*(asyncio.to_thread(feed) for _ in range(3)))
    assert ran == 600
    assert most <= 5


# -- lanes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [None, 1])
async def test_lane_has_a_limit_of_its_own(limit: int | None) -> None:
    """L1: tasks of a lane count against its limit alone, with or without a limit beside it."""
    gate = asyncio.Event()
    async with TaskScope(limit=limit, lanes={"mail": 2, "image": 1}) as scope:
        mails = [scope.task(lane="mail").schedule(gate.wait) for _ in range(4)]
        images = [scope.task(lane="image").schedule(wait_for, gate) for _ in range(2)]
        other = scope.schedule(gate.wait)
        await turns()
        mail_states = [task.state for task in mails]
        image_states = [task.state for task in images]
        other_state = other.state
        gate.set()
    running, waiting = TaskState.RUNNING, TaskState.WAITING
    assert mail_states == [running] * 2 + [waiting] * 2
    assert image_states == [running, waiting]
    assert other_state is running
    everything: list[AnyTask] = [*mails, *images, other]
    assert {task.state for task in everything} == {TaskState.SUCCEEDED}


async def wait_for(gate: asyncio.Event) -> None:
    """A plain coroutine function, which takes the shortest way through a scope."""
    await gate.wait()


async def test_unknown_lane_is_refused() -> None:
    """I7: a lane that the scope does not have is refused, and the message names those it has."""
    async with TaskScope(lanes={"mail": 2}, name="app") as scope:
        end = scope.lifecycle("end").phase("end")
        calls: list[Callable[[], AnyTask]] = [
            lambda: scope.task(lane="post").schedule(nothing),
            lambda: scope.task(lane="post").schedule(print),
            lambda: scope.task(lane="post", delay=1).schedule(nothing),
            lambda: end.task(lane="post").schedule(nothing),
        ]
        for call in calls:
            with pytest.raises(ConfigValueError, match=r"lane='post' .* 'app' has 'mail'; add it"):
                call()
        with pytest.raises(ConfigValueError, match=r"lane='post' .* TaskScope\(lanes="):
            await scope.wait_for_room("post")


async def test_unknown_lane_in_the_defaults_is_refused() -> None:
    """I7: a scope whose config names a lane that it does not have is refused at once."""
    with pytest.raises(ConfigValueError, match="lane='post'"):
        async with TaskScope(lanes={"mail": 2}, config=TaskConfig(lane="post")):
            pass


async def test_room_of_two_lanes_is_apart() -> None:
    """L1: room in one lane wakes who waits for that one, and nobody else."""
    journal = Journal()
    gates = {"mail": asyncio.Event(), "image": asyncio.Event()}

    async def feed(lane: str) -> None:
        await scope.wait_for_room(lane)
        scope.task(lane=lane).schedule(nothing)
        journal.add(lane)

    async with TaskScope(backlog=0, lanes={"mail": 1, "image": 1}) as scope:
        for lane, gate in gates.items():
            scope.task(lane=lane).schedule(gate.wait)
        feeders = [asyncio.create_task(feed(lane)) for lane in gates]
        await turns()
        gates["image"].set()
        await feeders[1]
        await turns()
        assert journal.events == ["image"]
        gates["mail"].set()
        await feeders[0]


# -- L4: slots always come back, in order --------------------------------------------------------


async def test_first_in_first_out() -> None:
    """L4: waiting tasks start in the order in which they were scheduled."""
    order: list[int] = []

    async def note(number: int) -> None:
        order.append(number)
        await asyncio.sleep(0)

    async with TaskScope(limit=2) as scope:
        tasks = [scope.schedule(note, number) for number in range(30)]
        for number in (7, 8, 20):
            tasks[number].cancel()
    assert order == [number for number in range(30) if number not in (7, 8, 20)]


async def _fail() -> None:
    raise ValueError("as asked")


async def _exit() -> None:
    raise SystemExit


def _bad_handler(task: AnyTask, error: BaseException) -> None:
    raise RuntimeError("handler fails, too")


async def _returns(scope: TaskScope) -> None:
    await scope.schedule(nothing)


async def _raises(scope: TaskScope) -> None:
    await scope.task(on_error=_bad_handler).schedule(_fail).wait()


async def _exits(scope: TaskScope) -> None:
    await scope.schedule(_exit).wait()


async def _times_out(scope: TaskScope) -> None:
    await scope.task(timeout=0).schedule(asyncio.Event().wait).wait()


async def _in_thread(scope: TaskScope) -> None:
    await scope.schedule(len, "")


async def _cancelled_before_it_began(scope: TaskScope) -> None:
    task = scope.schedule(nothing)
    assert task.state is TaskState.SCHEDULED
    task.cancel()
    await task.wait()


async def _cancelled_while_running(scope: TaskScope) -> None:
    task = scope.schedule(asyncio.Event().wait)
    await task.started.wait()
    task.cancel()
    await task.wait()


async def _cancelled_while_waiting(scope: TaskScope) -> None:
    gate = asyncio.Event()
    holder, waiting = scope.schedule(gate.wait), scope.schedule(nothing)
    assert waiting.state is TaskState.WAITING
    waiting.cancel()
    assert waiting.cancelled()
    gate.set()
    await holder.wait()


async def _cancelled_when_it_got_its_slot(scope: TaskScope) -> None:
    gate = asyncio.Event()
    holder, heir = scope.schedule(gate.wait), scope.schedule(nothing)
    gate.set()
    await holder.wait()
    assert heir.state is TaskState.SCHEDULED
    heir.cancel()
    await heir.wait()
    assert heir.cancelled()


async def _cancelled_from_a_thread(scope: TaskScope) -> None:
    gate = asyncio.Event()
    holder, waiting = scope.schedule(gate.wait), scope.schedule(nothing)
    await asyncio.to_thread(waiting.cancel)
    await waiting.wait()
    gate.set()
    await holder.wait()


async def _scheduled_from_a_thread_and_cancelled_at_once(scope: TaskScope) -> None:
    def schedule() -> AnyTask:
        task = scope.schedule(nothing)
        task.cancel()
        return task

    task = await asyncio.to_thread(schedule)
    await task.wait()


async def _cancelled_by_its_observer(scope: TaskScope) -> None:
    targets = (scope, scope.task(timeout=5), scope.task(delay=0), scope.task(delay=5))
    for target in targets:
        assert target.schedule(_unwanted).cancelled()
    gate = asyncio.Event()
    holder = scope.schedule(gate.wait)
    for target in targets:
        assert target.schedule(_unwanted).cancelled()
    gate.set()
    await holder.wait()
    await turns()


async def _unwanted() -> None:
    raise AssertionError("never begins")


def _cancel_unwanted(event: TaskEvent) -> None:
    if event.kind == "scheduled" and event.task.func is _unwanted:
        event.task.cancel()


@pytest.mark.parametrize(
    "end",
    [
        _returns,
        _raises,
        _exits,
        _times_out,
        _in_thread,
        _cancelled_before_it_began,
        _cancelled_while_running,
        _cancelled_while_waiting,
        _cancelled_when_it_got_its_slot,
        _cancelled_from_a_thread,
        _scheduled_from_a_thread_and_cancelled_at_once,
        _cancelled_by_its_observer,
    ],
)
async def test_every_end_gives_the_slot_back(
    end: Callable[[TaskScope], Awaitable[None]], caplog: pytest.LogCaptureFixture
) -> None:
    """L4: however a task ends, its slot comes back once: one task runs after it, not two."""
    gate = asyncio.Event()
    async with TaskScope(limit=1, backlog=1, observers=[_cancel_unwanted]) as scope:
        await end(scope)
        tasks = [scope.schedule(gate.wait) for _ in range(2)]
        with pytest.raises(BacklogFullError):
            scope.schedule(nothing)
        await turns()
        states = [task.state for task in tasks]
        gate.set()
    assert states == [TaskState.RUNNING, TaskState.WAITING]


async def test_stuck_thread_gives_the_slot_back() -> None:
    """L4: a function that is stuck in a thread is abandoned, and its slot goes on."""
    release = threading.Event()
    try:
        async with TaskScope(limit=1) as scope:
            stuck, heir = scope.schedule(release.wait), scope.schedule(nothing)
            await stuck.started.wait()
            stuck.cancel()
            await heir
            assert stuck.state is TaskState.ABANDONED
    finally:
        release.set()


# -- L4: limits in a drain -----------------------------------------------------------------------


@pytest.mark.virtual
async def test_waiting_tasks_start_during_the_grace_period() -> None:
    """L4: in a drain waiting tasks start as slots come free, until the grace period ends."""
    async with TaskScope(limit=1) as scope:
        for number in range(5):
            scope.task(name=str(number)).schedule(asyncio.sleep, 2)
        report = await scope.drain(grace_period=5, shield_timeout=5)
    assert [entry.name for entry in report.succeeded] == ["0", "1"]
    assert sorted(entry.name for entry in report.cancelled) == ["2", "3", "4"]


@pytest.mark.virtual
async def test_waiting_shielded_task_starts_in_the_drain() -> None:
    """L4: a shielded task that waits behind unshielded ones gets its slot when they go."""
    async with TaskScope(limit=1) as scope:
        scope.schedule(asyncio.Event().wait)
        unshielded = [scope.schedule(nothing) for _ in range(3)]
        shielded = [scope.task(shield=True).schedule(asyncio.sleep, 2, n) for n in range(3)]
        await scope.drain(grace_period=1, shield_timeout=None)
    assert all(task.cancelled() for task in unshielded)
    assert [task.result() for task in shielded] == [0, 1, 2]


@pytest.mark.virtual
@pytest.mark.parametrize("shield_timeout", [60, None])
async def test_slot_of_one_that_ignores_its_cancellation(shield_timeout: float | None) -> None:
    """L4: a task that ignores its cancellation does not keep a shielded one from its slot."""
    async with TaskScope(limit=1) as scope:
        stubborn = scope.schedule(swallow_cancellations)
        shielded = scope.task(shield=True).schedule(nothing)
        await turns()
        async with asyncio.timeout(100):
            await scope.drain(grace_period=1, shield_timeout=shield_timeout)
    assert stubborn.state is TaskState.ABANDONED
    assert shielded.state is TaskState.SUCCEEDED


async def test_crowd_of_waiting_tasks_is_cancelled_by_a_drain() -> None:
    """L4: ten thousand waiting tasks are cancelled without a recursion, and none begins."""
    began: list[int] = []

    async def begin() -> None:
        began.append(1)

    async with TaskScope(limit=1) as scope:
        scope.schedule(asyncio.Event().wait)
        for _ in range(10_000):
            scope.schedule(begin)
        report = await scope.drain(grace_period=0)
    assert began == []
    assert len(report.cancelled) == 10_001


@pytest.mark.virtual
async def test_crowd_that_comes_too_late_is_cancelled() -> None:
    """S1, L4: tasks that wait for the slot of one that ends too late end with it, however many."""
    began: list[int] = []

    async def begin() -> None:
        began.append(1)

    async def schedule_crowd() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            for _ in range(2_000):
                scope.schedule(begin)

    async with TaskScope(limit=1) as scope:
        await scope.task(shield=True).schedule(schedule_crowd).started.wait()
        async with asyncio.timeout(100):
            report = await scope.drain(grace_period=0, shield_timeout=0)
    assert began == []
    assert len(report.cancelled) == 2_001


@pytest.mark.virtual
async def test_observer_cancels_what_has_its_slot_in_a_drain() -> None:
    """S1, L4: a slot that an observer sets free goes to none of the many that come too late."""

    def cancel_head(event: TaskEvent) -> None:
        if event.kind == "finished" and event.task.cancelled():
            head.cancel()

    gate = asyncio.Event()
    async with TaskScope(limit=1, observers=[cancel_head]) as scope:
        running = scope.schedule(gate.wait)
        await running.started.wait()
        head = scope.schedule(nothing)
        waiting = [scope.schedule(nothing) for _ in range(2_000)]
        drain = asyncio.create_task(scope.drain(grace_period=0))
        gate.set()  # `head` gets the slot in the turn in which the drain begins
        async with asyncio.timeout(100):
            report = await drain
    assert running.state is TaskState.SUCCEEDED
    assert head.cancelled()
    assert len(report.cancelled) == len(waiting) + 1


# -- the whole scope, in any order ---------------------------------------------------------------


class ScopeMachine(RuleBasedStateMachine):
    """A limited scope under any order of calls; at the end everything accepted has ended."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner(loop_factory=VirtualClockLoop)
        self.loop = self.runner.get_loop()
        self.tasks: list[AnyTask] = []
        self.gates: dict[int, asyncio.Future[None]] = {}  # of the running ones
        self.began: list[int] = []
        self.feeders: list[asyncio.Task[None]] = []

    @initialize(limit=st.integers(1, 3), backlog=st.integers(0, 3))
    def open(self, limit: int, backlog: int) -> None:
        self.limit, self.backlog = limit, backlog
        quiet = TaskConfig(on_error=ignore)
        self.scope = TaskScope(limit=limit, backlog=backlog, config=quiet)
        self.runner.run(self.scope.__aenter__())
        self.unit = self.scope.lifecycle("end")

    async def work(self, number: int) -> None:
        self.began.append(number)
        self.gates[number] = self.loop.create_future()
        try:
            await self.gates[number]
        finally:
            del self.gates[number]

    def open_gates(self, fails: bool, *numbers: int) -> None:
        for number in numbers:
            gate = self.gates.get(number)
            if gate is None or gate.done():
                continue  # cancelled meanwhile
            if fails:
                gate.set_exception(ValueError("as asked"))
            else:
                gate.set_result(None)

    def on_loop(self, call: Callable[[], object]) -> None:
        async def main() -> None:
            call()

        self.runner.run(main())

    def unfinished(self) -> list[AnyTask]:
        return [task for task in self.tasks if not task.done()]

    def accept(self, schedule: Callable[..., AnyTask]) -> None:
        has_room = len(self.unfinished()) < self.limit + self.backlog
        try:
            self.tasks.append(schedule(self.work, len(self.tasks)))
        except BacklogFullError:
            assert not has_room
        else:
            assert has_room

    @rule()
    def schedule(self) -> None:
        self.on_loop(lambda: self.accept(self.scope.schedule))

    @rule()
    def schedule_from_a_thread(self) -> None:
        self.accept(self.scope.schedule)  # no loop runs in this thread between two rules

    @rule(when=st.sampled_from(["success", "failure"]))
    def defer(self, when: Any) -> None:
        self.on_loop(lambda: self.accept(self.unit.phase("end").task(when=when).schedule))

    @rule(delay=st.integers(0, 5))
    def delay(self, delay: int) -> None:
        self.on_loop(lambda: self.accept(self.scope.task(delay=delay).schedule))

    @rule()
    def advance(self) -> None:
        self.on_loop(lambda: self.unit.advance("end"))
        self.unit = self.scope.lifecycle("end")

    @rule(seconds=st.integers(0, 3))
    def turn(self, seconds: int) -> None:
        self.runner.run(asyncio.sleep(seconds))

    @precondition(lambda self: self.gates)
    @rule(data=st.data(), fails=st.booleans())
    def end_one(self, data: st.DataObject, fails: bool) -> None:
        number = data.draw(st.sampled_from(sorted(self.gates)))
        self.on_loop(lambda: self.open_gates(fails, number))

    @precondition(lambda self: self.unfinished())
    @rule(data=st.data(), thread=st.booleans())
    def cancel(self, data: st.DataObject, thread: bool) -> None:
        task = data.draw(st.sampled_from(self.unfinished()))
        if thread:
            task.cancel()
        else:
            self.on_loop(task.cancel)

    @precondition(lambda self: len(self.gates) > 1)
    @rule()
    def end_some_and_cancel_the_heirs(self) -> None:
        def end() -> None:
            self.open_gates(False, *self.gates)
            for task in self.unfinished()[::2]:
                task.cancel()

        self.on_loop(end)

    @rule()
    def feed(self) -> None:
        async def feed() -> None:
            await self.scope.wait_for_room()
            self.tasks.append(self.scope.schedule(self.work, len(self.tasks)))

        self.feeders.append(self.loop.create_task(feed()))

    @precondition(lambda self: self.feeders)
    @rule(data=st.data())
    def cancel_feeder(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.feeders)).cancel()

    @invariant()
    def never_too_many(self) -> None:
        assert len(self.gates) <= self.limit
        assert len(self.unfinished()) <= self.limit + self.backlog
        assert len(self.began) == len(set(self.began))

    def teardown(self) -> None:
        async def end() -> None:
            self.unit.advance("end")
            while self.unfinished() or not all(feeder.done() for feeder in self.feeders):
                self.open_gates(False, *self.gates)
                await asyncio.sleep(1)
            await asyncio.gather(*self.feeders, return_exceptions=True)
            # Every slot is back: as many run at once as may.
            assert [self.scope.schedule(self.work, -n - 1) for n in range(self.limit)]
            await turns()
            assert len(self.gates) == self.limit
            self.open_gates(False, *self.gates)
            await self.scope.__aexit__(None, None, None)

        with self.runner:
            if hasattr(self, "scope"):
                self.runner.run(asyncio.wait_for(end(), 1_000))
        for number, task in enumerate(self.tasks):
            assert task.done()
            assert task.cancelled() or number in self.began or task.state is TaskState.SKIPPED


def test_any_order_of_calls() -> None:
    """L1, L4: no order of calls loses a task or a slot, exceeds a limit, or deadlocks."""
    run_state_machine_as_test(
        ScopeMachine, settings=settings(max_examples=60, stateful_step_count=40, deadline=None)
    )


# -- wrong values --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"limit": 0}, ConfigValueError, "limit=0 .* at least 1"),
        ({"limit": -3}, ConfigValueError, "limit=-3 .* at least 1"),
        ({"limit": True}, ConfigTypeError, "limit=True .* pass an int"),
        ({"limit": 2.5}, ConfigTypeError, "limit=2.5 .* pass an int"),
        ({"limit": "5"}, ConfigTypeError, "limit='5' .* pass an int"),
        ({"limit": 1, "backlog": -1}, ConfigValueError, "backlog=-1 .* at least 0"),
        ({"limit": 1, "backlog": 1.0}, ConfigTypeError, "backlog=1.0 .* pass an int"),
        ({"backlog": 5}, ConfigValueError, "backlog=5 without a limit.* pass limit="),
        ({"threads": 0}, ConfigValueError, "threads=0 .* at least 1"),
        ({"threads": None}, ConfigTypeError, "threads=None .* pass an int"),
        ({"lanes": {"mail": 0}}, ConfigValueError, r"lanes\['mail'\]=0 .* at least 1"),
        ({"lanes": {"mail": None}}, ConfigTypeError, r"lanes\['mail'\]=None .* pass an int"),
        ({"lanes": {"mail": "5"}}, ConfigTypeError, r"lanes\['mail'\]='5' .* pass an int"),
        ({"lanes": {1: 5}}, ConfigTypeError, "lane=1 .* pass a str"),
        ({"lanes": {"": 5}}, ConfigValueError, "lane='' is empty"),
        ({"lanes": ["mail"]}, ConfigTypeError, r"lanes=\['mail'\] .* pass"),
    ],
)
def test_wrong_limit_is_refused(
    options: dict[str, Any], error: type[Exception], match: str
) -> None:
    """I7: a wrong limit is refused by the constructor, which says what it accepts."""
    with pytest.raises(error, match=match):
        TaskScope(**options)
