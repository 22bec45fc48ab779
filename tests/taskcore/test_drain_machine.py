"""The drain against everything at once: a state machine, and threads at every line of it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import math
import sys
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, TypeAlias, TypeVar, cast

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import taskcore
from taskcore import (
    DrainReport,
    Interval,
    Lifecycle,
    ScopeState,
    Series,
    Task,
    TaskEvent,
    TaskScope,
    TaskState,
)
from taskcore._clock import VirtualClockLoop, run_virtual
from taskcore.errors import ScopeClosedError
from taskcore.spi import Scheduler

T = TypeVar("T")
AnyTask: TypeAlias = Task[..., Any]

STATES = ("succeeded", "failed", "cancelled", "abandoned", "skipped")


def states_by_id(report: DrainReport) -> dict[int, str]:
    """What became of each task; each is in the report once."""
    found = [(entry.id, state) for state in STATES for entry in getattr(report, state)]
    assert len(dict(found)) == len(found), report
    return dict(found)


async def finish() -> None:
    pass


async def hang() -> None:
    await asyncio.Event().wait()


async def swallow() -> None:
    """Swallow every cancellation; the destruction of the coroutine ends it."""
    while True:
        try:
            await hang()
        except asyncio.CancelledError:
            continue


# -- a thread schedules while the scope closes ----------------------------------------------
#
# What a thread and the loop do is interleaved line by line: one of them stops at its
# first, second, ... n-th line of the core, and meanwhile the other does all it has to do.

CORE = str(Path(taskcore.__file__).parent)

# Seconds until one that stopped goes on although the other has not done all: it waits for
# a lock that the first holds, as it would without the stop.
LOCKED = 0.05


def at_line(number: int, act: Callable[[], None]) -> Callable[[FrameType, str, Any], Any]:
    """Make a trace function that calls `act` at the `number`-th line of the core."""
    lines = itertools.count(1)

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        if not frame.f_code.co_filename.startswith(CORE):
            return None
        if event == "line" and next(lines) == number:
            act()
        return trace

    return trace


class LateCall:
    """A call of `schedule` in a thread of its own, and what came of it."""

    def __init__(self, schedule: Callable[[], AnyTask]) -> None:
        self._schedule = schedule
        self._stopped = threading.Event()
        self._resumed = threading.Event()
        self.task: AnyTask | None = None
        self.error: Exception | None = None
        self.was_stopped = False

    def run(self) -> None:
        """Call at once and to the end."""
        thread = threading.Thread(target=self._call)
        thread.start()
        thread.join(LOCKED)

    def start(self, line: int) -> None:
        """Call, and stop at a line."""
        self._thread = threading.Thread(target=self._call_traced, args=(line,))
        self._thread.start()
        self._stopped.wait()

    def resume(self) -> None:
        """Go on, to the end."""
        self._resumed.set()
        self._thread.join()

    def _call(self) -> None:
        try:
            self.task = self._schedule()
        except Exception as error:
            self.error = error

    def _call_traced(self, line: int) -> None:
        before = sys.gettrace()
        sys.settrace(at_line(line, self._stop))
        try:
            self._call()
        finally:
            sys.settrace(before)
            self._stopped.set()

    def _stop(self) -> None:
        self.was_stopped = True
        self._stopped.set()
        self._resumed.wait(LOCKED)


def check_late(late: LateCall, report: DrainReport, scope: TaskScope) -> None:
    """A late task was refused, or it has ended and is in the report."""
    states = states_by_id(report)
    assert scope.state is ScopeState.CLOSED
    assert report.duration <= 4.0
    if late.task is None:
        assert isinstance(late.error, ScopeClosedError), late.error
    else:
        assert late.task.done(), late.task
        assert states[late.task.id] == late.task.state.value
    with pytest.raises(ScopeClosedError):
        scope.schedule(finish)


def plain(scope: TaskScope, unit: Lifecycle) -> AnyTask:
    return scope.schedule(hang)


def shielded(scope: TaskScope, unit: Lifecycle) -> AnyTask:
    return scope.task(shield=True).schedule(hang)


def delayed(scope: TaskScope, unit: Lifecycle) -> AnyTask:
    return scope.task(delay=30).schedule(hang)


def shielded_delayed(scope: TaskScope, unit: Lifecycle) -> AnyTask:
    return scope.task(delay=30, shield=True).schedule(hang)


def deferred(scope: TaskScope, unit: Lifecycle) -> AnyTask:
    return unit.phase("end").schedule(hang)


def shielded_deferred(scope: TaskScope, unit: Lifecycle) -> AnyTask:
    return unit.phase("end").task(shield=True).schedule(hang)


KINDS = (plain, shielded, delayed, shielded_delayed, deferred, shielded_deferred)


@pytest.mark.virtual
@pytest.mark.parametrize("limit", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "stage", [ScopeState.DRAINING, ScopeState.CANCELLING, ScopeState.ABANDONING, ScopeState.CLOSED]
)
async def test_scope_drains_while_a_thread_is_in_schedule(
    kind: Callable[[TaskScope, Lifecycle], AnyTask], stage: ScopeState, limit: int
) -> None:
    """S3: what a thread schedules is refused or reported, wherever in `schedule` it stands."""
    for line in itertools.count(1):
        events: list[TaskEvent] = []
        scope = TaskScope(limit=limit, observers=[events.append])
        await scope.__aenter__()
        grace_end = asyncio.get_running_loop().time() + 1
        unit = scope.lifecycle("end")
        if stage is not ScopeState.CLOSED:
            scope.task(shield=True).schedule(swallow)
            await asyncio.sleep(0)
        late = LateCall(partial(kind, scope, unit))
        late.start(line)
        drain = asyncio.create_task(scope.drain(grace_period=1, shield_timeout=1))
        for _ in range(20):
            if scope.state is not stage:
                await asyncio.sleep(0.25)
        late.resume()
        check_late(late, await drain, scope)
        begun = [event for event in events if event.kind == "started" and event.time >= grace_end]
        assert [event for event in begun if not event.task.config.shielded] == []
        if not late.was_stopped:
            return


@pytest.mark.parametrize("kind", KINDS)
def test_thread_schedules_at_every_line_of_the_drain(
    kind: Callable[[TaskScope, Lifecycle], AnyTask],
) -> None:
    """S3: what a thread schedules is refused or reported, wherever the drain stands."""

    async def run(line: int) -> bool:
        scope = TaskScope()
        await scope.__aenter__()
        unit = scope.lifecycle("end")
        scope.task(shield=True).schedule(hang)
        await asyncio.sleep(0)
        late = LateCall(partial(kind, scope, unit))
        called = False

        def act() -> None:
            nonlocal called
            called = True
            late.run()

        sys.settrace(at_line(line, act))
        try:
            report = await scope.drain(grace_period=1, shield_timeout=1)
        finally:
            sys.settrace(None)
        if called:
            check_late(late, report, scope)
        return called

    def in_a_thread() -> None:
        try:
            for line in itertools.count(1):
                at.append(line)
                if not run_virtual(partial(run, line)):
                    return
        except BaseException as error:
            errors.append(error)

    at: list[int] = []
    errors: list[BaseException] = []
    thread = threading.Thread(target=in_a_thread)
    thread.start()
    thread.join()
    assert errors == [], f"at line {at[-1]} of the drain"


# -- everything at once ---------------------------------------------------------------------

GRACE_PERIOD, SHIELD_TIMEOUT = 3.0, 4.0
BOUND = 2.0
WORK_ON_LOOP = (
    *("finish", "fail", "hang", "swallow", "slow finally", "endless finally", "hanging handler"),
    *("follow up", "follow up in finally", "unit", "unit left open"),
)
WORK = (*WORK_ON_LOOP, "thread", "stuck thread", "follow up in thread")
# Not a choice among the tasks: how many there are may depend on how fast a thread is.
NUMBERS = st.integers(0, 50)
QUICK_IN_THREAD = ("thread", "follow up in thread")


@dataclass(eq=False)
class Job:
    """What the machine knows of one task."""

    work: str
    seconds: float = 1.0
    shield: bool = False
    task: AnyTask | None = None  # once `schedule` has returned
    asked: bool = False  # somebody who may do so has asked it to stop
    ends: list[TaskState] = field(default_factory=list[TaskState])


class DrainMachine(RuleBasedStateMachine):
    """Tasks of every kind, drains at any time, and cancellations of everybody."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner(loop_factory=lambda: VirtualClockLoop(self.is_thread_busy))
        self.loop = self.runner.get_loop()
        self.released = threading.Event()  # ends what is stuck in threads
        self.gate = asyncio.Event()  # ends what hangs or swallows on the loop
        self.leave = asyncio.Event()
        self.raises = False
        self.jobs: dict[AnyTask, Job] = {}
        self.series: dict[Job, Series] = {}
        self.units: list[Lifecycle] = []
        self.drains: list[asyncio.Task[DrainReport]] = []
        # No deadline of the drain can be before these, and it must have ended at the third.
        self.grace_end = self.shield_end = self.latest_end = math.inf
        self.ended_in_drain: dict[int, str] = {}
        self.wrong: list[str] = []

    @initialize(limit=st.sampled_from([None, 1, 3]))
    def enter(self, limit: int | None) -> None:
        self.scope = TaskScope(
            limit=limit,
            grace_period=GRACE_PERIOD,
            shield_timeout=SHIELD_TIMEOUT,
            threads=100,  # so that no quick one waits behind stuck ones, and holds the clock
            observers=[self.observe],
        )
        self.owner = self.loop.create_task(self.own())
        self.run(asyncio.sleep(0))

    async def own(self) -> None:
        async with self.scope:
            await self.leave.wait()
            if self.raises:
                raise LookupError

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(self.settle(coroutine))

    async def settle(self, coroutine: Coroutine[Any, Any, T]) -> T:
        result = await coroutine
        # Or the next step would meet the thread anywhere.
        while self.is_thread_busy():  # noqa: ASYNC110 (it looks at what threads have done)
            await asyncio.sleep(0)
        return result

    # -- the tasks ----------------------------------------------------------------------

    async def work(self, job: Job) -> None:
        match job.work:
            case "finish":
                await asyncio.sleep(job.seconds)
            case "fail" | "hanging handler":
                await asyncio.sleep(job.seconds)
                raise LookupError
            case "hang":
                await self.gate.wait()
            case "swallow":
                while not self.gate.is_set():
                    with contextlib.suppress(asyncio.CancelledError):
                        await self.gate.wait()
            case "slow finally":
                try:
                    await self.gate.wait()
                finally:
                    await asyncio.sleep(0.5)
            case "endless finally":
                try:
                    await asyncio.sleep(job.seconds)
                finally:
                    await self.gate.wait()
            case "follow up":
                await asyncio.sleep(job.seconds)
                self.accept(self.scope, Job("finish"))
            case "follow up in finally":
                try:
                    await asyncio.sleep(job.seconds)
                finally:
                    self.accept(self.scope, Job("swallow"))
                    self.accept(self.scope.task(delay=1.5), Job("finish"))
            case "unit":
                async with self.scope.lifecycle("end") as unit:
                    self.accept(unit.phase("end"), Job("finish"))
                    await asyncio.sleep(job.seconds)
            case "unit left open":
                unit = self.scope.lifecycle("end")
                self.accept(unit.phase("end"), Job("finish"))
                self.accept(unit.phase("end"), Job("finish", shield=True))
                await asyncio.sleep(job.seconds)
            case _:
                raise AssertionError(job.work)

    def work_in_thread(self, job: Job) -> None:
        match job.work:
            case "stuck thread":
                self.released.wait()
            case "follow up in thread":
                self.accept(self.scope, Job("finish"))
            case _:
                raise AssertionError(job.work)

    async def handle(self, task: AnyTask, error: Exception) -> None:
        if task.args[0].work == "hanging handler":
            await self.gate.wait()

    def accept(self, target: Scheduler, job: Job) -> None:
        """Schedule a job, unless the scope takes none."""
        work: Callable[[Job], Any] = self.work
        if "thread" in job.work:
            work = self.work_in_thread
        options = target.task(name=job.work, shield=job.shield or None, on_error=self.handle)
        with contextlib.suppress(ScopeClosedError):
            job.task = options.schedule(work, job)
            self.jobs[job.task] = job

    def is_thread_busy(self) -> bool:
        working = (TaskState.SCHEDULED, TaskState.RUNNING)
        return any(
            job.work in QUICK_IN_THREAD and task.state in working
            for task, job in list(self.jobs.items())
        )

    def observe(self, event: TaskEvent) -> None:
        """Hold the end of a task against what it may be at this time."""
        is_run = event.task.args[0] in self.series
        if event.kind == "scheduled" and is_run and self.scope.state is not ScopeState.OPEN:
            self.wrong.append(f"{event.task} scheduled by a series after intake had closed")
        if event.kind in ("scheduled", "started"):
            return
        task, job = event.task, cast("Job", event.task.args[0])
        job.ends.append(task.state)
        if self.scope.state is not ScopeState.OPEN:
            self.ended_in_drain[task.id] = task.state.value
        deadline = self.grace_end if task.started.is_set() else -math.inf
        if task.config.shielded:
            deadline = self.shield_end
        if task.cancelled() and not job.asked and event.time < deadline - 1e-6:
            self.wrong.append(f"{task} cancelled at {event.time}, before {deadline}")
        if event.kind == "abandoned" and not task.started.is_set():
            self.wrong.append(f"{task} abandoned, although it never began")

    # -- what happens -------------------------------------------------------------------

    @rule(
        job=st.builds(
            Job, st.sampled_from(WORK), st.sampled_from([0.0, 1.0, 2.5, 6.0]), st.booleans()
        ),
        delay=st.sampled_from([None, None, 0.0, 1.0, 5.0]),
        where=st.sampled_from(["scope", "scope", "unit", "thread"]),
    )
    def schedule(self, job: Job, delay: float | None, where: str) -> None:
        target: Scheduler = self.scope
        if where == "unit" and self.units:
            target = self.units[-1].phase("second")
        if delay is not None:
            target = target.task(delay=delay)
        if where == "thread":
            thread = threading.Thread(target=self.accept, args=(target, job))
            thread.start()
            thread.join()
        else:
            self.run(self.on_loop(lambda: self.accept(target, job)))

    @rule(
        job=st.builds(
            Job, st.sampled_from(WORK_ON_LOOP), st.sampled_from([0.0, 1.0, 2.5]), st.booleans()
        ),
        seconds=st.sampled_from([0.5, 1.0, 5.0]),
        overlap=st.booleans(),
        in_thread=st.booleans(),
    )
    def begin_series(self, job: Job, seconds: float, overlap: bool, in_thread: bool) -> None:
        def begin() -> None:
            target = self.scope.task(name=job.work, shield=job.shield, on_error=self.handle)
            with contextlib.suppress(ScopeClosedError):
                self.series[job] = target.every(Interval(seconds, overlap=overlap), self.work, job)

        if in_thread:
            thread = threading.Thread(target=begin)
            thread.start()
            thread.join()
        else:
            self.run(self.on_loop(begin))

    @precondition(lambda self: self.series)
    @rule(number=NUMBERS)
    def cancel_series(self, number: int) -> None:
        series = list(self.series.values())
        self.run(self.on_loop(series[number % len(series)].cancel))

    async def on_loop(self, call: Callable[[], object]) -> None:
        call()

    @rule()
    def open_unit(self) -> None:
        with contextlib.suppress(ScopeClosedError):
            self.run(
                self.on_loop(lambda: self.units.append(self.scope.lifecycle("first", "second")))
            )

    @precondition(lambda self: self.units)
    @rule(fails=st.booleans())
    def close_unit(self, fails: bool) -> None:
        unit = self.units.pop()
        if fails:
            unit.fail()
        self.run(self.on_loop(unit.close))

    @rule(seconds=st.sampled_from([0.0, 0.5, 1.0, 3.0, 7.0]))
    def advance(self, seconds: float) -> None:
        self.run(asyncio.sleep(seconds))

    @rule(
        grace_period=st.sampled_from([None, 0.0, 1.0, 5.0]),
        shield_timeout=st.sampled_from([None, 0.0, 1.0, 5.0]),
    )
    def drain(self, grace_period: float | None, shield_timeout: float | None) -> None:
        coroutine = self.scope.drain(grace_period=grace_period, shield_timeout=shield_timeout)
        self.drains.append(self.loop.create_task(coroutine))
        self.note_deadlines(grace_period, shield_timeout)
        self.run(asyncio.sleep(0))

    def note_deadlines(
        self, grace_period: float | None, shield_timeout: float | None, *, exact: bool = True
    ) -> None:
        """A drain with these begins now or, if not exact, at some later time."""
        grace_end = self.loop.time() + (math.inf if grace_period is None else grace_period)
        shield_end = grace_end + (math.inf if shield_timeout is None else shield_timeout)
        self.grace_end = min(self.grace_end, grace_end)
        self.shield_end = min(self.shield_end, shield_end)
        if exact:
            self.latest_end = min(self.latest_end, shield_end + BOUND)

    @rule(raises=st.booleans())
    def leave_block(self, raises: bool) -> None:
        if not self.leave.is_set() and not self.owner.done():
            self.note_deadlines(GRACE_PERIOD, SHIELD_TIMEOUT, exact=raises)
            self.raises = raises
            self.leave.set()
            self.run(asyncio.sleep(0))

    @rule()
    def cancel_owner(self) -> None:
        if not self.owner.done():
            self.note_deadlines(GRACE_PERIOD, SHIELD_TIMEOUT)
            self.owner.cancel()
            self.run(asyncio.sleep(0))

    @precondition(lambda self: self.drains)
    @rule(number=NUMBERS)
    def cancel_drain(self, number: int) -> None:
        self.drains[number % len(self.drains)].cancel()

    @precondition(lambda self: self.jobs)
    @rule(number=NUMBERS)
    def cancel_task(self, number: int) -> None:
        task = list(self.jobs)[number % len(self.jobs)]
        self.jobs[task].asked = True
        self.run(self.on_loop(task.cancel))

    @rule()
    def cancel_like_asyncio_run(self) -> None:
        """Cancel what is listed, like the clean-up with which `asyncio.run` ends."""
        for task, job in self.jobs.items():
            job.asked = job.asked or not task.config.shielded
        for job in self.series:
            job.asked = job.asked or not job.shield
        if not self.owner.done():
            self.note_deadlines(GRACE_PERIOD, SHIELD_TIMEOUT)
        for listed in asyncio.all_tasks(self.loop):
            listed.cancel()
        self.run(asyncio.sleep(0))

    # -- what must hold -----------------------------------------------------------------

    @invariant()
    def no_end_was_wrong(self) -> None:
        assert self.wrong == []

    @invariant()
    def drain_is_bounded(self) -> None:
        assert self.loop.time() <= self.latest_end or self.scope.state is ScopeState.CLOSED

    def teardown(self) -> None:
        try:
            if hasattr(self, "scope"):
                self.run(self.end())
        finally:
            self.released.set()
            self.gate.set()
            self.run(asyncio.sleep(1))
            self.runner.close()

    async def end(self) -> None:
        """Drain once more; every task has ended, and is in the report if it has to be."""
        self.note_deadlines(1, 1)
        began = self.loop.time()
        report = await self.scope.drain(grace_period=1, shield_timeout=1)
        self.no_end_was_wrong()
        assert self.loop.time() <= max(began, self.latest_end)
        assert self.scope.state is ScopeState.CLOSED
        assert states_by_id(report) == self.ended_in_drain
        for task, job in self.jobs.items():
            assert task.done()
            assert job.ends == [task.state]
        assert all(series.is_over and series.task is None for series in self.series.values())
        assert not self.scope._series
        self.leave.set()
        asked: list[asyncio.Task[Any]] = [self.owner, *self.drains]
        ends: list[object] = await asyncio.gather(*asked, return_exceptions=True)
        assert {type(end) for end in ends} <= {
            *(type(None), DrainReport, LookupError, asyncio.CancelledError)
        }
        for drain in self.drains:
            assert drain.cancelled() or drain.result() is report
        assert asyncio.all_tasks() == {asyncio.current_task()}


def pending_tasks() -> set[asyncio.Task[Any]]:
    """Every asyncio task that has not ended, those that asyncio does not list included."""
    gc.collect()
    tasks: list[asyncio.Task[Any]] = [at for at in gc.get_objects() if isinstance(at, asyncio.Task)]
    return {task for task in tasks if not task.done()}


def test_everything_at_once() -> None:
    """S1, S2, S3: the invariants hold, and no asyncio task is left, listed or not."""
    before = pending_tasks()
    run_state_machine_as_test(
        DrainMachine, settings=settings(max_examples=100, stateful_step_count=25, deadline=None)
    )
    assert pending_tasks() - before == set()
