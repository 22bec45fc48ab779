"""`every`: the grid of ticks, what a run may do to it, and how a series ends."""

from __future__ import annotations

import asyncio
import gc
import inspect
import logging
import random
import threading
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import FrozenInstanceError
from functools import partial
from typing import Any, cast
from weakref import ref

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from taskcore import (
    DrainReport,
    Interval,
    Series,
    Task,
    TaskConfig,
    TaskEvent,
    TaskScope,
    TaskState,
    current_scope,
)
from taskcore._clock import VirtualClockLoop, run_virtual
from taskcore.errors import (
    ConfigTypeError,
    ConfigValueError,
    InvalidCallError,
    ScopeClosedError,
    WrongLoopError,
)
from tests.helpers import Journal, Outcome, cancel_at_every_await

AnyTask = Task[..., Any]

# Seconds by which a timer of the virtual clock may be early.
EARLY = 1e-5

user: ContextVar[str] = ContextVar("user")


def now() -> float:
    """The time on the loop's clock."""
    return asyncio.get_running_loop().time()


def block(seconds: float) -> None:
    """Let time pass while the loop can do nothing."""
    cast("VirtualClockLoop", asyncio.get_running_loop())._now += seconds


async def nothing() -> None:
    pass


class Runs:
    """A function for a series, which notes when it begins, and then takes its time.

    Args:
        lasts: Seconds that each run takes.
    """

    def __init__(self, lasts: float = 0) -> None:
        self.lasts = lasts
        self.began: list[float] = []
        self.most = 0  # at once
        self._going = 0

    async def __call__(self, lasts: float | None = None) -> None:
        self.began.append(now())
        self._going += 1
        self.most = max(self.most, self._going)
        try:
            await asyncio.sleep(self.lasts if lasts is None else lasts)
        finally:
            self._going -= 1


# -- the grid ---------------------------------------------------------------------------------


async def test_first_run_is_at_once() -> None:
    """T1: the first run begins at the loop's next turn, and nothing of it before `every` returns.

    It comes after what was scheduled before it, and before what was scheduled after.
    """
    journal = Journal()

    async def begin(name: str) -> None:
        journal.add(name)

    async with TaskScope() as scope:
        scope.schedule(begin, "before")
        series = scope.every(3600, begin, "series")
        last = scope.schedule(begin, "after")
        assert series.task is not None
        assert series.task.state is TaskState.SCHEDULED
        assert journal.events == []
        await last
        assert journal.events == ["before", "series", "after"]
        series.cancel()


@pytest.mark.virtual
async def test_runs_come_at_a_fixed_rate() -> None:
    """Runs begin at each interval from the first, however long each of them takes."""
    runs = Runs(lasts=7)
    async with TaskScope() as scope:
        await asyncio.sleep(1)
        series = scope.every(10, runs)
        await asyncio.sleep(45)
        series.cancel()
    assert runs.began == pytest.approx([1, 11, 21, 31, 41])


async def test_timers_of_the_loop() -> None:
    """The ticks are those of the loop's clock, on every loop; none comes too early."""
    began: list[float] = []
    async with TaskScope() as scope:

        async def run() -> None:
            began.append(now())
            if len(began) == 5:
                series.cancel()

        first = now()
        series = scope.every(0.002, run)
    # The clock of uvloop counts whole milliseconds.
    assert all(at >= first + 0.002 * number - 0.0021 for number, at in enumerate(began))
    assert began == sorted(began)


@pytest.mark.virtual
async def test_arguments() -> None:
    """Each run gets the arguments, also keywords that are names of ours."""
    journal = Journal()

    async def note(*args: object, **kwargs: object) -> None:
        journal.add((args, kwargs))

    async with TaskScope() as scope:
        series = scope.every(10, note, 1, 2, interval=3, func=4, jitter=5)
        await asyncio.sleep(15)
        series.cancel()
    assert journal.events == [((1, 2), {"interval": 3, "func": 4, "jitter": 5})] * 2


@pytest.mark.virtual
@pytest.mark.parametrize("delay", [0, 25])
async def test_delay_is_the_time_until_the_first_run(delay: float) -> None:
    """`delay` moves the whole series once; no run has a delay of its own."""
    runs, events = Runs(), list[TaskEvent]()
    async with TaskScope(observers=[events.append]) as scope:
        series = scope.task(delay=delay, name="late").every(10, runs)
        assert (series.task is None) == (delay > 0)
        await asyncio.sleep(delay + 25)
        series.cancel()
    assert runs.began == pytest.approx([delay, delay + 10, delay + 20])
    assert {event.task.config for event in events} == {TaskConfig(name="late")}


@pytest.mark.virtual
@pytest.mark.parametrize(
    ("lasts", "began"),
    [(9, [0, 10, 20, 30, 40]), (10.5, [0, 20, 40]), (25, [0, 30]), (100, [0])],
)
async def test_long_run_leaves_ticks_out(lasts: float, began: list[float]) -> None:
    """While a run goes on no other begins; those after it come on the grid, without a burst."""
    runs = Runs(lasts)
    async with TaskScope() as scope:
        series = scope.every(10, runs)
        await asyncio.sleep(45)
        series.cancel()
    assert runs.began == pytest.approx(began)
    assert runs.most == 1


@pytest.mark.virtual
async def test_left_out_run_is_told_at_debug(caplog: pytest.LogCaptureFixture) -> None:
    """I3: the log of what was left out names the series and its run, and no argument."""
    caplog.set_level(logging.DEBUG, "taskcore")
    async with TaskScope(name="app") as scope:
        series = scope.task(name="tick").every(10, Runs(), 15.0)
        task = series.task
        assert task is not None
        await asyncio.sleep(15)
        series.cancel()
    message = f"series 'tick' left out a run: the one before (id {task.id}) still goes on"
    (record,) = [record for record in caplog.records if "left out" in record.getMessage()]
    assert (record.levelname, record.getMessage()) == ("DEBUG", message)
    assert vars(record) | {"task_name": "tick", "task_function": "Runs", "scope": "app"} == vars(
        record
    )


@pytest.mark.virtual
async def test_overlap() -> None:
    """A run begins while others go on, if that was asked for."""
    runs = Runs(lasts=25)
    async with TaskScope() as scope:
        series = scope.every(Interval(10, overlap=True), runs)
        first = series.task
        await asyncio.sleep(15)
        assert series.task is not first  # the latest one
        await asyncio.sleep(30)
        series.cancel()
    assert runs.began == pytest.approx([0, 10, 20, 30, 40])
    assert runs.most == 3


@pytest.mark.virtual
@pytest.mark.parametrize(
    ("late", "following"),
    [(0.5, 20), (9.5, 20), (10, 30), (25, 40), (1000, 1020)],
)
async def test_late_loop_leaves_ticks_out(late: float, following: float) -> None:
    """A run that begins late moves none after it; ticks missed meanwhile have no run."""
    runs = Runs()
    async with TaskScope() as scope:
        series = scope.every(Interval(10, overlap=True), runs)
        await asyncio.sleep(9)
        block(1 + late)
        await asyncio.sleep(0)
        await asyncio.sleep(following + 5 - now())
        series.cancel()
    assert runs.began == pytest.approx([0, 10 + late, following])


@pytest.mark.virtual
@pytest.mark.parametrize("seconds", [0.25, 10])
async def test_early_timer_brings_no_second_run(seconds: float) -> None:
    """A loop whose timers fire early, by the rounding of its clock, runs each tick once."""
    runs = Runs()
    loop = cast("VirtualClockLoop", asyncio.get_running_loop())
    async with TaskScope() as scope:
        series = scope.every(Interval(seconds, overlap=True), runs)
        loop._clock_resolution = 0.5
        for _ in range(10):
            await asyncio.sleep(9.8)
        series.cancel()
    early = [number * seconds - began for number, began in enumerate(runs.began)]
    assert 0.1 < max(early) <= 0.5
    assert min(early) == 0


@pytest.mark.virtual
async def test_tiny_interval_leaves_the_loop_alone() -> None:
    """A loop that is later than the shortest interval each time still gets to everything else."""
    runs = Runs()

    async def busy() -> None:
        await runs()
        block(0.5)

    async with TaskScope() as scope:
        series = scope.every(0.001, busy)
        await asyncio.sleep(5)
        series.cancel()
    assert len(runs.began) == pytest.approx(10, abs=1)


@pytest.mark.virtual
async def test_jitter_is_anew_for_each_run() -> None:
    """Each run begins up to `jitter` seconds after its tick, and the ticks stay."""
    random.seed(7)
    runs = Runs()
    async with TaskScope() as scope:
        series = scope.every(Interval(10, jitter=4), runs)
        await asyncio.sleep(995)
        series.cancel()
    offsets = [began - 10 * number for number, began in enumerate(runs.began)]
    assert len(offsets) == 100
    assert -EARLY <= min(offsets) < 0.5
    assert 3.5 < max(offsets) <= 4 + EARLY


def windows(began: list[float], first: float, interval: Interval, late: float = 0) -> list[int]:
    """Give each start a tick of its own in whose window it lies; fail if one has none."""
    ticks: list[int] = []
    for start in began:
        number = ticks[-1] + 1 if ticks else 0
        while start > first + number * interval.seconds + interval.jitter + late + EARLY:
            number += 1
        assert start >= first + number * interval.seconds - EARLY, (start, number, began)
        ticks.append(number)
    return ticks


@settings(deadline=None, max_examples=200)
@given(
    seconds=st.floats(0.01, 100),
    jitter=st.floats(0, 1),
    overlap=st.booleans(),
    delay=st.none() | st.floats(0, 300),
    lengths=st.lists(st.floats(0, 4), min_size=1, max_size=8),
    seed=st.integers(0, 1000),
)
def test_every_start_lies_in_the_window_of_its_tick(
    seconds: float,
    jitter: float,
    overlap: bool,
    delay: float | None,
    lengths: list[float],
    seed: int,
) -> None:
    """Whatever runs take, each begins within `jitter` of a tick of its own.

    A tick has no run only if one went on at it, and never if overlap was asked for.
    """
    interval = Interval(seconds, jitter=jitter * seconds, overlap=overlap)
    count, ends = 40, list[float]()
    runs = Runs()

    async def run() -> None:
        await runs(lengths[len(runs.began) % len(lengths)] * seconds)
        ends.append(now())

    async def main() -> None:
        random.seed(seed)
        async with TaskScope() as scope:
            target = scope if delay is None else scope.task(delay=delay)
            series = target.every(interval, run)
            await asyncio.sleep((delay or 0) + count * seconds)
            series.cancel()

    run_virtual(main())
    first = delay or 0.0
    ticks = windows(runs.began, first, interval)
    if overlap:
        assert ticks[: count - 1] == list(range(count - 1))
        return
    assert runs.most == 1
    for number in set(range(count - 1)) - set(ticks):
        earliest = first + number * seconds - EARLY
        latest = earliest + interval.jitter + 2 * EARLY
        spans = zip(runs.began, ends, strict=True)
        assert any(start <= latest and end >= earliest for start, end in spans), number


@settings(deadline=None, max_examples=200)
@given(
    seconds=st.floats(1, 100),
    blocks=st.lists(st.integers(0, 80), min_size=1, max_size=20),
)
def test_late_loop_keeps_the_grid(seconds: float, blocks: list[int]) -> None:
    """However late the loop is, no two runs stand for one tick, and none begins before it."""
    runs = Runs()

    async def main() -> None:
        async with TaskScope() as scope:
            series = scope.every(seconds, runs)
            for length in blocks:
                # In these steps the time never comes near a tick by being late.
                await asyncio.sleep(0.701 * seconds)
                block(length / 16 * seconds)
            series.cancel()

    run_virtual(main())
    ticks = [int((began + EARLY) / seconds) for began in runs.began]
    assert ticks == sorted(set(ticks))


# -- runs are ordinary tasks ------------------------------------------------------------------


@pytest.mark.virtual
async def test_failing_run_does_not_end_the_series(caplog: pytest.LogCaptureFixture) -> None:
    """I1: each failure is logged, or given to the handler, and the next run comes."""
    handled = Journal()

    async def fail() -> None:
        raise ValueError(now())

    async def handle(task: AnyTask, error: BaseException) -> None:
        handled.add((task.name, error.args))

    async with TaskScope() as scope:
        logged = scope.task(name="logged").every(10, fail)
        given = scope.task(name="given", on_error=handle).every(10, fail)
        await asyncio.sleep(25)
        logged.cancel()
        given.cancel()
    assert handled.events == [("given", (0.0,)), ("given", (10.0,)), ("given", (20.0,))]
    failures = [record for record in caplog.records if record.levelname == "ERROR"]
    assert ["'logged'" in record.getMessage() for record in failures] == [True] * 3


@pytest.mark.virtual
async def test_options_are_those_of_each_run() -> None:
    """Timeout, name, lane and the defaults of the scope hold for each run."""
    events: list[TaskEvent] = []
    default = TaskConfig(name="app", timeout=100)
    async with TaskScope(config=default, lanes={"mail": 1}, observers=[events.append]) as scope:

        async def keep_quiet(task: AnyTask, error: BaseException) -> None:
            pass

        mail = scope.task(lane="mail", on_error=keep_quiet).task(timeout=5)
        series = mail.every(10, asyncio.sleep, 6)
        assert series.name == "app"
        await asyncio.sleep(15)
        series.cancel()
    config = TaskConfig(name="app", timeout=5, lane="mail", on_error=keep_quiet)
    finished = [event for event in events if event.kind == "finished"]
    assert [event.time for event in finished] == pytest.approx([5, 15])
    assert [event.task.state for event in finished] == [TaskState.FAILED] * 2
    assert {event.task.config for event in finished} == {config}


async def test_plain_function() -> None:
    """A plain function runs in a thread of the scope, as for `schedule`."""
    async with TaskScope() as scope:
        series = scope.task(name="tick").every(3600, threading.get_ident)
        task = series.task
        assert task is not None
        assert await task != threading.get_ident()
        assert task.name == "tick"
        series.cancel()


@pytest.mark.virtual
async def test_run_that_waits_for_a_slot_goes_on() -> None:
    """A run that waits in the backlog counts as going on: none is added behind it."""
    runs = Runs()
    async with TaskScope(limit=1) as scope:
        scope.schedule(asyncio.sleep, 35)
        series = scope.every(10, runs)
        assert series.task is not None
        assert series.task.state is TaskState.WAITING
        await asyncio.sleep(45)
        series.cancel()
    assert runs.began == pytest.approx([35, 40])


@pytest.mark.virtual
async def test_full_backlog_leaves_a_run_out(caplog: pytest.LogCaptureFixture) -> None:
    """L1: a run for which there is no room is logged, the first one as well, and the next comes."""
    runs = Runs()
    async with TaskScope(limit=1, backlog=0, name="app") as scope:
        scope.schedule(asyncio.sleep, 15)
        series = scope.task(name="tick").every(10, runs)
        assert series.task is None
        await asyncio.sleep(35)
        series.cancel()
    assert runs.began == pytest.approx([20, 30])
    records = [record for record in caplog.records if record.levelname == "WARNING"]
    assert len(records) == 2
    for record in records:
        said = record.getMessage()
        assert said.startswith("series 'tick' left out a run: cannot schedule 'tick': scope 'app'")
        assert vars(record)["task_name"] == "tick"


@pytest.mark.virtual
async def test_context_is_that_of_the_call() -> None:
    """I4: each run sees the context of `every`, and nothing that a run before it has set."""
    seen = Journal()

    async def note() -> None:
        seen.add((user.get(), current_scope()))
        user.set("a run")

    async with TaskScope() as scope, TaskScope() as current:
        user.set("caller")
        series = [scope.every(10, note), current.every(10, note)]
        user.set("someone else")
        await asyncio.sleep(25)
        for one in series:
            one.cancel()
    assert seen.events == [("caller", scope), ("caller", current)] * 3


@pytest.mark.virtual
async def test_context_is_kept_from_observers() -> None:
    """I4: what an observer sets when it hears of one run is not there for the next."""
    seen = Journal()

    def observe(event: TaskEvent) -> None:
        if event.kind == "scheduled":
            seen.add(user.get())
            user.set("an observer")

    async with TaskScope(observers=[observe]) as scope:
        user.set("caller")
        series = scope.every(10, nothing)
        await asyncio.sleep(25)
        series.cancel()
    assert seen.events == ["caller"] * 3


# -- ends -------------------------------------------------------------------------------------


@pytest.mark.virtual
async def test_cancel() -> None:
    """`cancel` ends the series and leaves a run alone that goes on, which is still told."""
    runs = Runs(lasts=5)
    async with TaskScope() as scope:
        series = scope.every(10, runs)
        await asyncio.sleep(12)
        assert not series.is_over
        assert series.cancel()
        assert series.is_over
        assert not series.cancel()
        task = series.task
        assert task is not None
        await task
        assert now() == pytest.approx(15)
        assert series.task is None
    assert now() == pytest.approx(15)
    assert len(runs.began) == 2


@pytest.mark.virtual
async def test_cancel_before_the_first_run() -> None:
    """A series whose delay goes on is cancelled like any, and nobody waits for its time."""
    async with TaskScope() as scope:
        series = scope.task(delay=3600).every(10, nothing)
        assert series.task is None
        series.cancel()
    assert now() == 0


@pytest.mark.virtual
async def test_run_cancels_its_series() -> None:
    """A run may end its own series, and goes on to its own end."""
    ended = Journal()
    async with TaskScope() as scope:

        async def count_down() -> None:
            left.pop()
            if not left:
                series.cancel()
            await asyncio.sleep(1)
            ended.add(now())

        left = [1, 2, 3]
        series = scope.every(10, count_down)
    assert ended.events == pytest.approx([1, 11, 21])


@pytest.mark.virtual
async def test_observer_cancels_the_series() -> None:
    """A series that is cancelled while it begins a run stays cancelled."""
    runs, series = Runs(), list[Series]()

    def observe(event: TaskEvent) -> None:
        for one in series:
            one.cancel()

    async with TaskScope(observers=[observe]) as scope:
        series.append(scope.every(10, runs))
        await asyncio.sleep(15)
    assert len(runs.began) == 1
    assert now() == 15


@pytest.mark.virtual
async def test_cancelled_run_does_not_end_the_series() -> None:
    """L4: the handle of a run cancels that run alone, and gives its slot back."""
    runs = Runs(lasts=100)
    async with TaskScope(limit=1) as scope:
        series = scope.every(10, runs)
        await asyncio.sleep(5)
        assert series.task is not None
        series.task.cancel()
        await asyncio.sleep(6)
        assert series.task is not None
        series.task.cancel()
        series.cancel()
    assert runs.began == pytest.approx([0, 10])


@pytest.mark.virtual
async def test_end_of_the_block_waits_for_a_series() -> None:
    """T5: the block of a scope goes on until its series are cancelled, and their runs end."""
    runs = Runs(lasts=5)
    async with TaskScope() as scope:
        first, second = scope.every(10, runs), scope.every(10, nothing)
        loop = asyncio.get_running_loop()
        loop.call_later(15, second.cancel)
        loop.call_later(42, first.cancel)
    assert len(runs.began) == 5
    assert now() == pytest.approx(45)


@pytest.mark.virtual
async def test_cancelled_block_drains_its_series() -> None:
    """A script with nothing but a series ends at Ctrl-C, with its run drained."""
    runs, reports = Runs(lasts=5), list[DrainReport]()

    async def main() -> None:
        async with TaskScope(on_drain=reports.append) as scope:
            scope.every(10, runs)

    script = asyncio.create_task(main())
    await asyncio.sleep(22)
    script.cancel()
    await asyncio.wait([script])
    assert script.cancelled()
    assert now() == pytest.approx(25)
    (report,) = reports
    assert len(report.succeeded) == 1


async def test_cancelled_at_every_await() -> None:
    """Wherever the block of a scope with a series is cancelled, nothing of it is left."""

    async def script() -> None:
        async with TaskScope() as scope:
            series = scope.every(3600, asyncio.sleep, 0)
            await scope.wait_idle()
            asyncio.get_running_loop().call_soon(series.cancel)
        assert series.is_over

    def check(outcome: Outcome[None]) -> None:
        assert outcome.cancelled == bool(outcome.cancelled_at)

    outcomes = await cancel_at_every_await(script, times=2, check=check)
    assert len(outcomes) > 2


@pytest.mark.virtual
async def test_wait_idle_leaves_out_the_next_run() -> None:
    """`wait_idle` waits for the runs that go on, and for no tick to come."""
    runs = Runs(lasts=5)
    async with TaskScope() as scope:
        series = scope.every(10, runs)
        await scope.wait_idle()
        assert now() == 5
        await scope.wait_idle()
        assert now() == 5
        await asyncio.sleep(6)
        await scope.wait_idle()
        assert now() == pytest.approx(15)
        series.cancel()


@pytest.mark.virtual
@pytest.mark.parametrize("shield", [False, True])
async def test_drain_ends_a_series(shield: bool) -> None:
    """S3: no run begins once intake has closed; the one that goes on is drained like any task."""
    runs = Runs(lasts=25)
    async with TaskScope(grace_period=12, shield_timeout=50) as scope:
        series = scope.task(shield=shield, name="tick").every(10, runs)
        idle = scope.task(shield=shield, delay=100).every(10, runs)
        await asyncio.sleep(5)
        drain = asyncio.create_task(scope.drain())
        await asyncio.sleep(0)
        assert series.is_over
        assert idle.is_over
        assert not series.cancel()
        report = await drain
    assert runs.began == [0]
    entries = report.succeeded if shield else report.cancelled
    assert [(entry.name, entry.duration) for entry in entries] == [("tick", 25 if shield else 17)]
    assert report == DrainReport(
        **{("succeeded" if shield else "cancelled"): entries}, duration=report.duration
    )


@pytest.mark.virtual
async def test_drain_waits_for_no_tick() -> None:
    """S1: a series between two runs is nothing that a drain waits for, or reports."""
    async with TaskScope(grace_period=None, shield_timeout=None) as scope:
        scope.every(10, nothing)
        scope.task(shield=True).every(10, nothing)
        await scope.wait_idle()
        assert await scope.drain() == DrainReport()
        assert now() == 0


async def test_clean_up_of_the_loop_ends_a_series() -> None:
    """A series of a scope that nobody drains is over once the loop's clean-up cancels its run."""
    found: list[Series] = []

    async def main() -> None:
        scope = await TaskScope().__aenter__()
        found.append(scope.every(3600, asyncio.Event().wait))
        await asyncio.sleep(0)

    await asyncio.to_thread(asyncio.run, main())
    assert found[0].is_over
    assert found[0].task is None


# -- threads ----------------------------------------------------------------------------------


async def test_series_from_a_thread() -> None:
    """I8, I4: a thread begins a series, in its own context, and cancels it."""
    seen = Journal()

    async def note() -> None:
        seen.add(user.get())

    def begin() -> Series:
        user.set("thread")
        return scope.every(3600, note)

    user.set("loop")
    async with TaskScope() as scope:
        series = await asyncio.to_thread(begin)
        await scope.wait_idle()
        assert seen.events == ["thread"]
        assert await asyncio.to_thread(series.cancel)
        assert series.is_over
        assert not await asyncio.to_thread(series.cancel)
    assert seen.events == ["thread"]


def in_a_thread(call: Callable[[], Any]) -> Any:
    """Call in a thread, while the loop can do nothing."""
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(call()))
    thread.start()
    thread.join()
    return answers[0]


async def test_series_from_threads_that_come_together() -> None:
    """I4: each has the context of its own thread, whoever brings them onto the loop."""
    seen: list[str] = []

    async def note() -> None:
        seen.append(user.get())

    def begin(name: str) -> Series:
        user.set(name)
        return scope.every(3600, note)

    user.set("loop")
    async with TaskScope() as scope:
        series = [in_a_thread(partial(begin, name)) for name in ("first", "second")]
        scope.schedule(note)
        await scope.wait_idle()
        for one in series:
            one.cancel()
    assert seen == ["first", "second", "loop"]


async def test_thread_cancels_what_the_block_waits_for() -> None:
    """I8: a `cancel` in a thread touches nothing that is the loop's."""
    async with TaskScope() as scope:
        series = scope.every(3600, nothing)
        task = scope.schedule(series.cancel)
    assert task.result() is True


@pytest.mark.virtual
async def test_block_waits_for_a_series_on_its_way() -> None:
    """I8, T5: the end of the block, and `wait_idle`, count what a thread has just begun."""
    runs = Runs()
    async with TaskScope() as scope:
        series = in_a_thread(lambda: scope.every(10, runs))
        assert series.task is None
        await scope.wait_idle()
        assert runs.began == [0]
        series.cancel()
        last = in_a_thread(lambda: scope.every(10, runs))
        asyncio.get_running_loop().call_later(15, last.cancel)
    assert runs.began == pytest.approx([0, 0, 10])


async def test_series_is_cancelled_on_its_way() -> None:
    """I8: a series that is cancelled before the loop has heard of it has no run."""
    runs = Runs()
    async with TaskScope() as scope:
        series = in_a_thread(lambda: scope.every(3600, runs))
        assert series.cancel()
        await scope.wait_idle()
    assert runs.began == []


@pytest.mark.virtual
async def test_tick_comes_before_the_loop_hears_of_the_cancellation() -> None:
    """I8: after a `cancel` in a thread has returned, no run begins."""
    runs = Runs()
    async with TaskScope() as scope:
        series = scope.every(10, runs)
        # Called in the same turn of the loop as the tick, and before it.
        asyncio.get_running_loop().call_at(10 - EARLY / 100, in_a_thread, series.cancel)
        await asyncio.sleep(25)
    assert runs.began == [0]


@pytest.mark.virtual
async def test_scope_drains_while_a_series_is_on_its_way() -> None:
    """I8: a series that arrives at a scope that drains is over, and holds nothing up."""
    runs = Runs()
    async with TaskScope() as scope:
        series = in_a_thread(lambda: scope.every(10, runs))
        assert await scope.drain() == DrainReport()
        assert series.is_over
        assert now() == 0
    assert runs.began == []


class SlowToTell:
    """A function whose signature takes until it is told: it holds a thread inside `every`."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.told = threading.Event()

    def __call__(self) -> None:
        raise AssertionError("it was refused")

    @property
    def __signature__(self) -> inspect.Signature:
        self.asked.set()
        self.told.wait()
        return inspect.Signature()


async def test_scope_closes_while_a_thread_is_in_every() -> None:
    """I8, I7: a thread that comes too late is refused, and nothing is left of its series."""
    func = SlowToTell()
    async with TaskScope() as scope:
        call = asyncio.create_task(asyncio.to_thread(scope.every, 10, func))
        await asyncio.to_thread(func.asked.wait)
        await scope.drain()
        func.told.set()
        with pytest.raises(ScopeClosedError, match="cannot schedule 'SlowToTell'"):
            await call


# -- wrong use --------------------------------------------------------------------------------

WRONG: list[tuple[Any, type[Exception], str]] = [
    (0, ConfigValueError, "seconds=0 is out of range; pass seconds from 0.001"),
    (0.0005, ConfigValueError, "seconds=0.0005 is out of range"),
    (-1, ConfigValueError, "seconds=-1 is out of range"),
    (float("nan"), ConfigValueError, "seconds=nan is out of range"),
    (float("inf"), ConfigValueError, "seconds=inf is out of range"),
    (10**400, ConfigValueError, "is out of range"),
    (True, ConfigTypeError, "seconds=True is not a number; pass seconds, as in every"),
    ("60", ConfigTypeError, "seconds='60' is not a number"),
    (None, ConfigTypeError, "seconds=None is not a number"),
    (nothing, ConfigTypeError, r"as in every\(60, function\)"),
]


@pytest.mark.parametrize(("interval", "kind", "message"), WRONG, ids=repr)
async def test_wrong_interval(interval: Any, kind: type[Exception], message: str) -> None:
    """I7: an interval that makes no sense is refused at the call, which says what is accepted."""
    async with TaskScope() as scope:
        with pytest.raises(kind, match=message):
            scope.every(interval, nothing)
        with pytest.raises(kind, match=message):
            Interval(interval)


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"jitter": -1}, ConfigValueError, "jitter=-1 is out of range; pass seconds from 0 to 60"),
        ({"jitter": 61}, ConfigValueError, "jitter=61 is out of range; pass seconds from 0 to 60"),
        ({"jitter": float("nan")}, ConfigValueError, "jitter=nan is out of range"),
        ({"jitter": True}, ConfigTypeError, "jitter=True is not a number"),
        ({"jitter": "5"}, ConfigTypeError, "jitter='5' is not a number"),
        ({"overlap": 1}, ConfigTypeError, "overlap=1 is not a bool; pass True or False"),
    ],
    ids=str,
)
def test_wrong_option_of_an_interval(
    options: dict[str, Any], kind: type[Exception], message: str
) -> None:
    """I7: jitter is part of the interval, so it fits into it; overlap is yes or no."""
    with pytest.raises(kind, match=message):
        Interval(60, **options)


def test_interval_is_a_frozen_value() -> None:
    """Intervals with the same values are equal, and cannot be changed."""
    assert Interval(60, jitter=60) == Interval(60.0, 60, overlap=False)
    assert len({Interval(60), Interval(60), Interval(61)}) == 2
    with pytest.raises(FrozenInstanceError):
        Interval(60).seconds = 61  # type: ignore[misc]
    assert not hasattr(Interval(60), "__dict__")


async def test_wrong_call() -> None:
    """I7: what no run could call is refused at once, and a note says how `every` is called."""
    async with TaskScope(lanes={"mail": 1}) as scope:
        with pytest.raises(InvalidCallError, match="coroutine object 'nothing") as caught:
            scope.every(60, nothing())  # type: ignore[arg-type]
        assert caught.value.__notes__ == [
            "write every(60, function, argument, ...): the interval comes first"
        ]
        with pytest.raises(InvalidCallError, match="takes 0 positional arguments"):
            scope.every(60, nothing, 1)  # type: ignore[call-arg]
        with pytest.raises(InvalidCallError, match="cannot be called"):
            scope.every(60, 60)  # type: ignore[arg-type]
        with pytest.raises(InvalidCallError, match="in a process"):
            scope.task(run_in="process").every(60, lambda: None)
        with pytest.raises(ConfigValueError, match="cannot run the coroutine function"):
            scope.task(run_in="thread").every(60, nothing)
        with pytest.raises(ConfigValueError, match=r"scope 'scope-\d+' has 'mail'"):
            scope.task(lane="post").every(60, nothing)
        with pytest.raises(ConfigValueError, match="needs a phase"):
            scope.task(when="always").every(60, nothing)
    # Nothing was begun, or the block would not have ended.


async def test_wrong_scope() -> None:
    """I7: a scope that is not open, or another loop, is refused as for `schedule`."""
    scope = TaskScope()
    for target in (scope, scope.task(name="x")):
        with pytest.raises(ScopeClosedError, match=r"write 'async with TaskScope\(\) as scope:'"):
            target.every(60, nothing)
    async with scope:

        async def use_it_elsewhere() -> None:
            with pytest.raises(WrongLoopError, match="call it there, or from a thread"):
                scope.every(60, nothing)

        await asyncio.to_thread(asyncio.run, use_it_elsewhere())
    for call in (scope.every, scope.task(name="x").every):
        with pytest.raises(ScopeClosedError, match="is closed; schedule it before shutdown"):
            call(60, nothing)
        with pytest.raises(ScopeClosedError, match="is closed; schedule it before shutdown"):
            await asyncio.to_thread(call, 60, nothing)


@pytest.mark.virtual
async def test_series_of_a_shielded_task_that_is_drained() -> None:
    """I7: a shielded task may schedule during the drain, and begin no series any more."""
    journal = Journal()
    async with TaskScope() as scope:

        async def work() -> None:
            await asyncio.sleep(1)
            with pytest.raises(ScopeClosedError, match=r"'app' is draining.*schedule one run"):
                scope.every(60, nothing)
            await scope.schedule(nothing)
            journal.add("worked")

        scope._name = "app"
        scope.task(shield=True).schedule(work)
        await asyncio.sleep(0)
        await scope.drain()
    assert journal.events == ["worked"]


async def test_units_have_no_series() -> None:
    """A unit of work and its phases end, so they have no `every`; their scope has."""
    async with TaskScope() as scope, scope.lifecycle("end") as unit:
        for target in (unit, unit.phase("end"), unit.task(name="x"), unit.phase("end").task()):
            assert not hasattr(target, "every")
        unit.scope.every(3600, nothing).cancel()


# -- what is kept -----------------------------------------------------------------------------


@pytest.mark.virtual
async def test_arguments_that_no_longer_fit(caplog: pytest.LogCaptureFixture) -> None:
    """A run that would be refused is left out with a line in the log, and the series goes on."""
    argument: list[object] = []
    async with TaskScope() as scope:
        series = scope.task(run_in="process", delay=10).every(10, len, argument)
        argument.append(lambda: None)  # which cannot be pickled
        await asyncio.sleep(35)
        assert not series.is_over
        series.cancel()
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(said) == 3
    assert all("series 'len' left out a run: cannot schedule 'len' in a process" in s for s in said)


@pytest.mark.virtual
async def test_function_that_breaks_its_scheduling(caplog: pytest.LogCaptureFixture) -> None:
    """An error that no run should be able to cause is left to the loop, and the series goes on."""
    runs = Runs()

    class Broken:
        """A function whose signature cannot be read from its second run on."""

        @property
        def __signature__(self) -> inspect.Signature:
            if runs.began:
                runs.began.append(now())
                raise ZeroDivisionError
            return inspect.Signature()

        async def __call__(self) -> None:
            await runs()

    async with TaskScope() as scope:
        series = scope.every(10, Broken())
        await asyncio.sleep(25)
        series.cancel()
    assert runs.began == pytest.approx([0, 10, 20])
    errors = [record for record in caplog.records if record.name == "asyncio"]
    assert ["_tick" in record.getMessage() for record in errors] == [True, True]
    caplog.clear()


@pytest.mark.virtual
async def test_finished_run_is_not_held() -> None:
    """I6: neither scope nor series holds a run that has ended, or its result."""

    class Result:
        """Something that can be referred to weakly."""

    results: list[ref[Result]] = []

    async def make() -> Result:
        result = Result()
        results.append(ref(result))
        return result

    async with TaskScope() as scope:
        series = scope.every(10, make)
        await asyncio.sleep(15)
        assert len(results) == 2
        assert [result() for result in results] == [None, None]
        series.cancel()


@pytest.mark.virtual
async def test_scope_holds_a_series_until_it_is_over() -> None:
    """I6: the handle may be dropped; what is over is let go of."""
    runs = Runs()
    async with TaskScope() as scope:
        series = scope.every(10, runs)
        found = ref(series)
        del series
        gc.collect()
        await asyncio.sleep(15)
        assert len(runs.began) == 2
        held = found()
        assert held is not None
        held.cancel()
        del held
        gc.collect()
        assert found() is None


@pytest.mark.virtual
async def test_nothing_accumulates() -> None:
    """C3: ten thousand runs leave as many objects behind as ten, and one timer."""
    loop = cast("Any", asyncio.get_running_loop())
    counts: list[int] = []
    async with TaskScope(limit=2) as scope:
        series = [
            scope.every(1, nothing),
            scope.every(Interval(1, jitter=0.5), nothing),
            scope.every(Interval(1, overlap=True), asyncio.sleep, 1.5),
        ]
        for seconds in (10, 10_000):
            await asyncio.sleep(seconds)
            gc.collect()
            # Tuples are what the fixture `moves` writes down.
            counts.append(sum(not isinstance(found, tuple) for found in gc.get_objects()))
            assert len(loop._scheduled) < 10
        for one in series:
            one.cancel()
    assert counts[1] - counts[0] < 100


async def test_repr() -> None:
    """I3: a series shows its name, its interval and whether it is over, and no argument."""
    async with TaskScope() as scope:
        series = scope.every(3600, asyncio.sleep, 0.125)
        named = scope.task(name="tick").every(Interval(60, jitter=5), nothing)
        assert repr(series) == "<Series 'sleep' every 3600 s, going>"
        assert (series.name, named.name) == ("sleep", "tick")
        series.cancel()
        named.cancel()
        assert repr(named) == "<Series 'tick' every 60 s, over>"
