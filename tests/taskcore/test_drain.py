"""The drain, step by step: what goes on, what is cancelled, what is told, and when."""

from __future__ import annotations

import asyncio
import logging
import math
import re
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from contextvars import copy_context
from typing import Any, cast

import pytest

from taskcore import (
    DrainReport,
    ScopeState,
    Task,
    TaskEvent,
    TaskScope,
    TaskState,
    check_cancelled,
)
from taskcore._clock import VirtualClockLoop, run_virtual
from taskcore.errors import (
    ConfigError,
    ScopeClosedError,
    TaskAbandonedError,
    TaskCancelledError,
    WrongLoopError,
)
from tests.helpers import Journal, Outcome, cancel_at_every_await

pytestmark = pytest.mark.virtual

STATES = ("succeeded", "failed", "cancelled", "abandoned", "skipped")


def became(report: DrainReport) -> dict[str, str]:
    """What became of each task, by name; each is in the report once."""
    found = [(entry.name, state) for state in STATES for entry in getattr(report, state)]
    assert len(dict(found)) == len(found), report
    return dict(found)


def now() -> float:
    return asyncio.get_running_loop().time()


def while_busy(busy: Callable[[], bool]) -> None:
    """Let the clock stand still while a thread is at work."""
    cast("VirtualClockLoop", asyncio.get_running_loop()).busy = busy


async def until(happened: Callable[[], bool]) -> None:
    """Wait for a thread, without letting the clock move."""
    while not happened():  # noqa: ASYNC110 (no asyncio event can be set in a thread)
        await asyncio.sleep(0)


async def hang() -> None:
    await asyncio.Event().wait()


async def fail(after: float = 0) -> None:
    await asyncio.sleep(after)
    raise LookupError("lost")


async def swallow() -> None:
    """Swallow every cancellation."""
    while True:
        try:
            await hang()
        except asyncio.CancelledError:
            continue


async def ignore(task: object, error: Exception) -> None:
    pass


@asynccontextmanager
async def drained(**options: Any) -> AsyncGenerator[TaskScope]:
    """An entered scope that the test drains itself, without the end of a block."""
    scope = TaskScope(**options)
    await scope.__aenter__()
    yield scope
    assert scope.state is ScopeState.CLOSED


# -- intake -------------------------------------------------------------------------------


async def test_intake_closes() -> None:
    """Nothing is accepted once a drain has begun, and the error says what to do."""
    async with drained() as scope:
        unit = scope.lifecycle("end")
        draining = asyncio.create_task(scope.drain())
        scope.schedule(hang)  # not begun yet
        await asyncio.sleep(0)
        for schedule in (
            scope.schedule,
            scope.task(shield=True, delay=1).schedule,
            unit.schedule,
            unit.phase("end").schedule,
        ):
            with pytest.raises(ScopeClosedError, match="draining; schedule it before shutdown"):
                schedule(hang)
        with pytest.raises(ScopeClosedError, match="unit of work"):
            scope.lifecycle("end")
        assert became(await draining) == {"hang": "cancelled"}
        with pytest.raises(ScopeClosedError, match="is closed"):
            scope.schedule(hang)


async def test_what_an_unshielded_task_schedules_is_refused() -> None:
    """During the grace period a task that is not shielded cannot add work."""
    async with drained(grace_period=2) as scope:

        async def parent() -> None:
            await asyncio.sleep(1)
            with pytest.raises(ScopeClosedError, match="from inside a shielded task"):
                scope.schedule(hang)

        scope.schedule(parent)
        assert list(became(await scope.drain()).values()) == ["succeeded"]


async def test_what_a_shielded_task_schedules_is_shielded() -> None:
    """S3: a shielded task goes on scheduling; its tasks get its shield, and are reported."""
    async with drained(grace_period=1, shield_timeout=9) as scope:

        async def child() -> None:
            await asyncio.sleep(2)

        def child_in_thread() -> None:
            pass

        async def parent() -> None:
            await asyncio.sleep(2)
            tasks = [
                scope.task(name="now").schedule(child),
                scope.task(name="in a thread").schedule(child_in_thread),
            ]
            while_busy(lambda: not tasks[1].done())
            async with scope.lifecycle("end") as unit:
                tasks.append(unit.phase("end").task(name="deferred").schedule(child))
                await asyncio.sleep(1)
            assert all(task.config.shielded for task in tasks)

        scope.task(name="parent", shield=True).schedule(parent)
        assert became(await scope.drain()) == dict.fromkeys(
            ["parent", "now", "in a thread", "deferred"], "succeeded"
        )
        assert now() == 5.0


async def test_what_runs_inside_a_shielded_task_schedules() -> None:
    """S3: the asyncio tasks and threads that a shielded task started schedule like itself."""
    async with drained(grace_period=1) as scope:

        async def child() -> None:
            scope.task(name="by a child").schedule(asyncio.sleep, 1)

        def in_thread() -> None:
            scope.task(name="by a thread").schedule(asyncio.sleep, 1)

        async def work() -> None:
            await asyncio.sleep(2)
            await asyncio.gather(child(), asyncio.to_thread(in_thread))

        scope.task(name="work", shield=True).schedule(work)
        assert became(await scope.drain()) == dict.fromkeys(
            ["work", "by a child", "by a thread"], "succeeded"
        )


async def test_unshielded_task_of_a_shielded_one_schedules_in_a_thread() -> None:
    """S3: what an unshielded task schedules is refused, though a shielded one has scheduled it."""
    refused: list[str] = []

    async with drained(grace_period=5) as scope:

        def in_thread() -> None:
            with pytest.raises(ScopeClosedError, match="from inside a shielded task"):
                scope.schedule(max, 1, 2)
            refused.append("in a thread")

        async def child() -> None:
            await asyncio.sleep(2)
            await asyncio.to_thread(in_thread)

        async def work() -> None:
            await scope.task(name="child", timeout=60).schedule(child)

        scope.task(name="work", shield=True).schedule(work)
        await asyncio.sleep(1)
        assert became(await scope.drain()) == dict.fromkeys(["child", "work"], "succeeded")
    assert refused == ["in a thread"]


async def test_shielded_task_schedules_in_its_finally_at_the_deadline() -> None:
    """S3: what is scheduled when it is too late never begins, and is reported as cancelled."""
    async with drained(grace_period=1, shield_timeout=1, limit=1) as scope:

        async def parent() -> None:
            try:
                await hang()
            finally:
                scope.task(name="now").schedule(hang)
                scope.task(name="later", delay=0.5).schedule(hang)
                scope.task(name="much later", delay=50).schedule(hang)
                scope.lifecycle("end").phase("end").task(name="deferred").schedule(hang)
                await swallow()

        scope.task(name="parent", shield=True).schedule(parent)
        assert became(await scope.drain()) == {
            "parent": "abandoned",
            **dict.fromkeys(["now", "later", "much later", "deferred"], "cancelled"),
        }


# -- what waits for its moment ------------------------------------------------------------


async def test_phases_that_will_not_come() -> None:
    """Deferred tasks end as cancelled when the drain begins; shielded ones start instead."""
    async with drained(grace_period=5) as scope:
        journal = Journal()

        async def note() -> None:
            journal.add(now())

        unit = scope.lifecycle("end")
        plain = unit.phase("end").task(name="plain").schedule(note)
        shielded = unit.phase("end").task(name="shielded", shield=True, delay=50).schedule(note)
        await asyncio.sleep(1)
        assert became(await scope.drain()) == {"plain": "cancelled", "shielded": "succeeded"}
        assert journal.events == [1.0]
        unit.close()
        assert (plain.cancelled(), shielded.done(), now()) == (True, True, 1.0)


async def test_phases_of_a_task_that_still_runs() -> None:
    """What a running task deferred starts when its phase comes, as long as the task goes on."""
    async with drained(grace_period=5) as scope:

        async def work(seconds: float) -> None:
            async with scope.lifecycle("end") as unit:
                unit.phase("end").task(name=f"plain {seconds}").schedule(asyncio.sleep, 1)
                shielded = unit.phase("end").task(name=f"shielded {seconds}", shield=True)
                shielded.schedule(asyncio.sleep, 1)
                await asyncio.sleep(seconds)

        scope.task(name="short").schedule(work, 2)
        scope.task(name="long").schedule(work, 50)
        await asyncio.sleep(0)
        assert became(await scope.drain()) == {
            "short": "succeeded",
            "plain 2": "succeeded",
            "shielded 2": "succeeded",
            "long": "cancelled",
            "plain 50": "cancelled",
            "shielded 50": "succeeded",
        }
        assert now() == 6.0


@pytest.mark.parametrize("lasts", [1, 3])
async def test_unit_that_its_task_left_open(lasts: float) -> None:
    """S1: the phases of a task that ended during the drain will not come either."""
    async with drained(grace_period=2, shield_timeout=None) as scope:

        async def work() -> None:
            unit = scope.lifecycle("end")
            await asyncio.sleep(lasts)
            unit.phase("end").task(name="deferred", shield=True).schedule(asyncio.sleep, 1)

        scope.task(name="work", shield=True).schedule(work)
        await asyncio.sleep(0)
        drain = asyncio.create_task(scope.drain())
        await asyncio.sleep(20)
        try:
            assert drain.done()
        finally:
            assert became(await scope.drain(shield_timeout=0)) == {
                "work": "succeeded",
                "deferred": "succeeded",
            }


async def test_delays() -> None:
    """A delay that ends in the grace period is kept; a longer one counts as a lost phase."""
    async with drained(grace_period=5) as scope:
        for delay in (2, 50):
            scope.task(name=f"plain {delay}", delay=delay).schedule(asyncio.sleep, 0)
            shielded = scope.task(name=f"shielded {delay}", delay=delay, shield=True)
            shielded.schedule(asyncio.sleep, 1)
        assert became(await scope.drain()) == {
            "plain 2": "succeeded",
            "shielded 2": "succeeded",
            "plain 50": "cancelled",
            "shielded 50": "succeeded",
        }
        assert now() == 3.0


@pytest.mark.parametrize("lasts", [0, 3])
async def test_delay_of_what_a_shielded_task_schedules(lasts: float) -> None:
    """S2: a delay that ends after the grace period is left out, whenever it was asked for."""
    async with drained(grace_period=2, shield_timeout=5) as scope:

        async def work() -> None:
            await asyncio.sleep(lasts)
            scope.task(name="delayed", delay=3600).schedule(asyncio.sleep, 0)

        scope.task(name="work", shield=True).schedule(work)
        drain = asyncio.create_task(scope.drain())
        assert became(await drain) == {"work": "succeeded", "delayed": "succeeded"}
        assert now() <= 3.0


# -- deadlines ------------------------------------------------------------------------------


async def test_grace_period() -> None:
    """S3: during the grace period everything goes on, and waiting tasks get their slots."""
    async with drained(limit=1, grace_period=5) as scope:
        tasks = [scope.schedule(asyncio.sleep, 2) for _ in range(4)]
        assert [task.state for task in tasks][1:] == [TaskState.WAITING] * 3
        report = await scope.drain()
        durations = {entry.id: entry.duration for entry in report.succeeded + report.cancelled}
        assert [durations[task.id] for task in tasks] == [2.0, 2.0, 1.0, 0.0]
        assert [task.cancelled() for task in tasks] == [False, False, True, True]
        assert report.duration == now() == 5.0


async def test_shield_timeout() -> None:
    """Unshielded tasks are cancelled after the grace period, shielded ones at their deadline."""
    async with drained(grace_period=2, shield_timeout=3) as scope:
        journal = Journal()

        async def work(name: str) -> None:
            try:
                await hang()
            finally:
                journal.add((name, now()))

        scope.task(name="plain").schedule(work, "plain")
        scope.task(name="shielded", shield=True).schedule(work, "shielded")
        scope.task(name="in time", shield=True).schedule(asyncio.sleep, 4)
        assert became(await scope.drain()) == {
            "plain": "cancelled",
            "shielded": "cancelled",
            "in time": "succeeded",
        }
        assert journal.events == [("plain", 2.0), ("shielded", 5.0)]


async def test_shielded_task_that_waits_for_a_slot() -> None:
    """Shielded tasks that wait get the slots of those that were cancelled."""
    async with drained(limit=1, grace_period=1, shield_timeout=5) as scope:
        scope.schedule(hang)
        for name in ("first", "second"):
            scope.task(name=name, shield=True).schedule(asyncio.sleep, 1)
        assert became(await scope.drain()) == {
            "hang": "cancelled",
            "first": "succeeded",
            "second": "succeeded",
        }
        assert now() == 3.0


async def test_stuck_task_keeps_no_slot_from_a_shielded_one() -> None:
    """S2: a cancelled task that does not stop is abandoned while shielded ones need its slot."""
    async with drained(limit=1, grace_period=1, shield_timeout=None) as scope:
        scope.schedule(swallow)
        scope.task(name="shielded", shield=True).schedule(asyncio.sleep, 1)
        drain = asyncio.create_task(scope.drain())
        await asyncio.sleep(10)
        try:
            assert drain.done()
        finally:
            assert became(await scope.drain(grace_period=0, shield_timeout=0)) == {
                "swallow": "abandoned",
                "shielded": "succeeded",
            }


async def test_clean_up_is_not_cancelled_again() -> None:
    """A task that cleans up after its cancellation has its second, whoever ends meanwhile."""
    async with drained(grace_period=1, shield_timeout=5) as scope:
        journal = Journal()

        async def work() -> None:
            try:
                await hang()
            finally:
                await asyncio.sleep(0.5)
                journal.add("cleaned up")

        scope.schedule(work)
        scope.task(shield=True).schedule(asyncio.sleep, 1.2)
        await scope.drain()
        assert journal.events == ["cleaned up"]


async def test_no_deadlines() -> None:
    """`None` waits as long as it takes, for the grace period and for the shield."""
    async with drained(grace_period=None) as scope:
        scope.schedule(asyncio.sleep, 900)
        assert (await scope.drain()).duration == 900.0
    async with drained(grace_period=1, shield_timeout=None) as scope:
        scope.task(shield=True).schedule(asyncio.sleep, 900)
        assert (await scope.drain()).duration == 900.0


async def test_zero_deadlines() -> None:
    """Zero is now: what runs is cancelled at once, and what has not begun never begins."""
    async with drained(limit=2, grace_period=0, shield_timeout=0) as scope:
        tasks = [scope.schedule(hang), scope.task(shield=True).schedule(hang)]
        tasks += [scope.schedule(hang), scope.task(delay=1, shield=True).schedule(hang)]
        await asyncio.sleep(0)
        await scope.drain()
        assert [task.state for task in tasks] == [TaskState.CANCELLED] * 4
        assert [task.started.is_set() for task in tasks] == [True, True, False, False]
        assert now() == 0.0


async def test_nothing_to_drain() -> None:
    """S3: a drain of a scope without tasks returns at once, with an empty report."""
    async with drained() as scope:
        await scope.schedule(asyncio.sleep, 1)
        assert await scope.drain() == DrainReport()


# -- the bound --------------------------------------------------------------------------------


async def endless_finally() -> None:
    try:
        await hang()
    finally:
        await swallow()


async def hanging_handler(task: object, error: Exception) -> None:
    await swallow()


@pytest.mark.parametrize("shield", [False, True])
@pytest.mark.parametrize("stubborn", [swallow, endless_finally, fail])
async def test_stubborn_task_is_abandoned(
    stubborn: Callable[[], Any], shield: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """S1: the drain is bounded; what does not stop is named once, with age and place."""
    async with drained(grace_period=2, shield_timeout=3) as scope:
        options = scope.task(name="stubborn", shield=shield, on_error=hanging_handler)
        task = options.schedule(stubborn)
        await asyncio.sleep(1)
        report = await scope.drain()
        assert became(report) == {"stubborn": "abandoned"}
        assert report.duration <= 2 + (3 if shield else 0) + 2
        assert report.abandoned[0].duration == now()
        with pytest.raises(TaskAbandonedError, match="the log says where it hangs"):
            task.result()
        (record,) = [r for r in caplog.records if r.levelno == logging.ERROR]
        assert re.search(
            rf"abandoned task 'stubborn' \(id {task.id}, function {stubborn.__qualname__}\) after "
            rf"{now():.2f} s: (?s:.*)in swallow\n +await hang\(\)\n(?s:.*)in wait",
            record.getMessage(),
        )


async def test_stuck_thread_is_abandoned(caplog: pytest.LogCaptureFixture) -> None:
    """S1: a function stuck in a thread holds up neither the drain nor the tasks behind it."""
    release = threading.Event()
    try:
        async with drained(grace_period=1, shield_timeout=4, threads=1) as scope:
            stuck = scope.task(name="stuck").schedule(release.wait)
            last = scope.task(name="behind", shield=True).schedule(threading.get_ident)
            while_busy(lambda: stuck.done() and not last.done())
            await until(stuck.started.is_set)
            assert became(await scope.drain()) == {"stuck": "abandoned", "behind": "succeeded"}
            assert now() <= 3.0
    finally:
        release.set()
    (record,) = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert "abandoned task 'stuck'" in record.getMessage()
    assert "in wait\n" in record.getMessage()


async def test_stuck_error_handler_in_a_thread(caplog: pytest.LogCaptureFixture) -> None:
    """S1: an error handler that is stuck in a thread is abandoned, and named in one line."""
    begun, release = threading.Event(), threading.Event()

    def handler(task: object, error: Exception) -> None:
        begun.set()
        release.wait()

    try:
        async with drained(grace_period=1, shield_timeout=1) as scope:
            scope.task(on_error=handler).schedule(fail)
            await until(begun.is_set)
            while_busy(lambda: False)
            assert list(became(await scope.drain()).values()) == ["abandoned"]
    finally:
        release.set()
    (record,) = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert "in handler\n" in record.getMessage()


async def test_observer_cancels_what_would_be_refused_next() -> None:
    """S3: of two tasks whose phase comes too late, the end of one may cancel the other."""
    tasks: list[Task[..., Any]] = []
    ended: list[Task[..., Any]] = []

    def watch(event: TaskEvent) -> None:
        if event.kind == "finished" and event.task in tasks:
            ended.append(event.task)
            tasks[1].cancel()

    async def reach_a_phase_too_late() -> None:
        unit = scope.lifecycle("end")
        try:
            await hang()
        finally:
            tasks.extend(unit.phase("end").schedule(hang) for _ in range(2))
            unit.advance("end")

    async with drained(grace_period=0, shield_timeout=0, observers=[watch]) as scope:
        scope.task(shield=True).schedule(reach_a_phase_too_late)
        await asyncio.sleep(0)
        assert len((await scope.drain()).cancelled) == 3
    assert ended == tasks


async def test_function_in_a_thread_schedules_while_it_is_drained() -> None:
    """S2: in a drain a shielded function in a thread may schedule, an unshielded one may not."""
    refused: list[type[Exception]] = []
    draining = threading.Event()

    async def more() -> str:
        return "more"

    def schedule_more() -> None:
        draining.wait()
        try:
            scope.task(name="more").schedule(more)
        except ScopeClosedError as error:
            refused.append(type(error))

    async with drained(threads=2) as scope:
        shielded = scope.task(name="shielded", shield=True).schedule(schedule_more)
        plain = scope.task(name="plain").schedule(schedule_more)
        while_busy(lambda: not (shielded.done() and plain.done()))
        await until(lambda: shielded.started.is_set() and plain.started.is_set())
        drain = asyncio.create_task(scope.drain())
        await until(lambda: scope.state is not ScopeState.OPEN)
        draining.set()
        assert became(await drain) == dict.fromkeys(("shielded", "plain", "more"), "succeeded")
    assert refused == [ScopeClosedError]


async def test_deferred_tasks_are_never_abandoned() -> None:
    """S3: a task that never began is reported as cancelled, however late it came."""
    async with drained(grace_period=0, shield_timeout=0) as scope:

        async def work() -> None:
            try:
                await hang()
            except asyncio.CancelledError:
                scope.task(name="delayed", delay=50).schedule(hang)
                await swallow()

        scope.task(name="work", shield=True).schedule(work)
        await asyncio.sleep(0)
        assert became(await scope.drain()) == {"work": "abandoned", "delayed": "cancelled"}


# -- cooperation in threads ---------------------------------------------------------------


@pytest.mark.parametrize("by", ["handle", "drain", "timeout"])
async def test_function_in_a_thread_asks(by: str) -> None:
    """S6: a function in a thread learns that it is to stop, whoever wants it to."""
    asked = threading.Event()

    def work() -> None:
        check_cancelled()
        asked.wait()
        check_cancelled()

    async with drained(grace_period=1) as scope:
        timeout = 1 if by == "timeout" else None
        task = scope.task(timeout=timeout, on_error=ignore).schedule(work)
        while_busy(lambda: asked.is_set() and not task.done())
        await until(task.started.is_set)
        drain = asyncio.create_task(scope.drain()) if by == "drain" else None
        await asyncio.sleep(1.1)
        if by == "handle":
            task.cancel()
            await asyncio.sleep(0.1)
        asked.set()
        await task.wait()
        assert task.state is (TaskState.FAILED if by == "timeout" else TaskState.CANCELLED)
        await (drain or scope.drain())


@pytest.mark.parametrize("by", ["handle", "drain"])
async def test_queued_function_never_begins(by: str) -> None:
    """S6: a cancelled function that still waits for a thread never begins."""
    journal, release = Journal(), threading.Event()
    async with drained(threads=1, grace_period=0) as scope:
        first = scope.task(shield=True).schedule(release.wait)
        queued = scope.schedule(journal.add, "begun")
        await until(first.started.is_set)
        if by == "handle":
            queued.cancel()
        drain = asyncio.create_task(scope.drain())
        await queued.wait()
        while_busy(lambda: not first.done())
        release.set()
        report = await drain
        assert [entry.id for entry in report.succeeded] == [first.id]
        if by == "drain":
            assert [(entry.id, entry.duration) for entry in report.cancelled] == [(queued.id, 0.0)]
    assert (queued.cancelled(), journal.events) == (True, [])


async def test_check_on_the_loop_and_elsewhere() -> None:
    """S6: in a coroutine the check works as well, and outside of a task it does nothing."""
    check_cancelled()

    async def work() -> None:
        check_cancelled()
        try:
            await hang()
        finally:
            with pytest.raises(TaskCancelledError, match="was asked to stop"):
                check_cancelled()

    async with drained(grace_period=0) as scope:
        scope.schedule(work)
        await asyncio.sleep(0)
        assert list(became(await scope.drain()).values()) == ["cancelled"]


# -- the report -----------------------------------------------------------------------------


async def test_report() -> None:
    """S3: every task that had not finished is in the report once, with what became of it."""
    async with drained(grace_period=2, config=None) as scope:
        await scope.task(name="before").schedule(asyncio.sleep, 1)
        unit = scope.lifecycle("end")
        unit.phase("end").task(name="deferred").schedule(hang)
        scope.task(name="succeeded").schedule(asyncio.sleep, 1)
        scope.task(name="failed", on_error=ignore).schedule(fail)
        scope.task(name="cancelled").schedule(hang)
        scope.task(name="by hand").schedule(hang).cancel()

        async def skip() -> None:
            async with scope.lifecycle("end") as unit:
                unit.phase("end").task(name="skipped", when="failure").schedule(hang)
                await asyncio.sleep(1)

        scope.task(name="skipping").schedule(skip)
        await asyncio.sleep(0.5)
        report = await scope.drain()
        assert became(report) == {
            "deferred": "cancelled",
            "succeeded": "succeeded",
            "cancelled": "cancelled",
            "skipped": "skipped",
            "skipping": "succeeded",
        }
        assert report.duration == 2.0
        assert str(report) == "2 succeeded, 0 failed, 2 cancelled, 0 abandoned, 1 skipped"


async def test_failures_are_reported_and_handled() -> None:
    """S3: a task that fails during the drain is handled, and reported as failed."""
    async with drained(grace_period=2) as scope:
        journal = Journal()

        async def handle(task: object, error: Exception) -> None:
            await asyncio.sleep(0.5)
            journal.add(type(error))

        scope.task(name="failed", on_error=handle).schedule(fail, 1)
        report = await scope.drain()
        assert became(report) == {"failed": "failed"}
        assert report.failed[0].duration == 1.5
        assert journal.events == [LookupError]


async def test_summary_line(caplog: pytest.LogCaptureFixture) -> None:
    """S3: one line at level INFO says what became of the tasks."""
    caplog.set_level(logging.INFO, "taskcore")
    async with drained(name="app", grace_period=1.5) as scope:
        scope.schedule(hang)
        report = await scope.drain()
    record, cancelled = caplog.records
    assert record.getMessage() == (
        "drain of scope 'app' ended after 1.50 s: "
        "0 succeeded, 0 failed, 1 cancelled, 0 abandoned, 0 skipped"
    )
    assert record.levelno == logging.INFO
    assert (vars(record)["scope"], vars(record)["report"]) == ("app", report)
    (entry,) = report.cancelled
    named = f"drain of scope 'app' cancelled 1 tasks: 'hang' ({entry.id})"
    assert (cancelled.getMessage(), cancelled.levelno) == (named, logging.WARNING)
    assert vars(cancelled)["task_ids"] == [entry.id]


async def test_wait_lines(caplog: pytest.LogCaptureFixture) -> None:
    """S1: every five seconds a line names what the drain still waits for, and for how long."""
    async with drained(name="app", grace_period=11, shield_timeout=None) as scope:
        plain = scope.task(name="plain").schedule(hang)
        shielded = scope.task(name="shielded", shield=True).schedule(asyncio.sleep, 17)
        await scope.drain()
    waits = "drain of scope 'app' still waits for"
    both = f"'plain' ({plain.id}), 'shielded' ({shielded.id})"
    assert [record.getMessage() for record in caplog.records] == [
        f"{waits} 2 tasks after 5 s (draining): {both}",
        f"{waits} 2 tasks after 10 s (draining): {both}",
        f"{waits} 1 tasks after 16 s (cancelling): 'shielded' ({shielded.id})",
        f"drain of scope 'app' cancelled 1 tasks: 'plain' ({plain.id})",
    ]
    assert {record.levelno for record in caplog.records} == {logging.WARNING}
    assert vars(caplog.records[0])["task_ids"] == [plain.id, shielded.id]


async def test_wait_line_of_many_tasks(caplog: pytest.LogCaptureFixture) -> None:
    """A wait line names ten tasks, and counts the others; so does what names the cancelled."""
    async with drained(grace_period=6) as scope:
        tasks = [scope.schedule(hang) for _ in range(12)]
        await scope.drain()
    waits, cancelled = (record.getMessage() for record in caplog.records)
    assert "still waits for 12 tasks" in waits
    assert "cancelled 12 tasks" in cancelled
    assert waits.endswith(f"'hang' ({tasks[9].id}) and 2 more")
    assert cancelled.endswith(" and 2 more")


@pytest.mark.parametrize("is_async", [False, True])
async def test_on_drain(is_async: bool, caplog: pytest.LogCaptureFixture) -> None:
    """S3: `on_drain` gets the report, once, instead of a line in the log."""
    caplog.set_level(logging.INFO, "taskcore")
    reports: list[DrainReport] = []

    async def on_drain(report: DrainReport) -> None:
        await asyncio.sleep(0.1)
        reports.append(report)

    async with drained(on_drain=on_drain if is_async else reports.append) as scope:
        scope.schedule(asyncio.sleep, 1)
        report = await scope.drain()
        assert await scope.drain() is report
    assert reports == [report]
    assert caplog.records == []


async def on_drain_fails(report: DrainReport) -> None:
    raise LookupError


def on_drain_raises(report: DrainReport) -> None:
    raise LookupError


async def on_drain_hangs(report: DrainReport) -> None:
    await hang()


async def on_drain_swallows(report: DrainReport) -> None:
    await swallow()


@pytest.mark.parametrize(
    "on_drain", [on_drain_raises, on_drain_fails, on_drain_hangs, on_drain_swallows]
)
async def test_on_drain_that_fails(
    on_drain: Callable[[DrainReport], Any], caplog: pytest.LogCaptureFixture
) -> None:
    """S1: an `on_drain` that fails or hangs is logged with the report, and holds nothing up."""
    scope = TaskScope(on_drain=on_drain, grace_period=1, shield_timeout=0)
    await scope.__aenter__()
    scope.schedule(hang)
    drain = asyncio.create_task(scope.drain())
    await asyncio.sleep(3)
    assert drain.done()
    assert became(drain.result()) == {"hang": "cancelled"}
    (record,) = caplog.records
    assert on_drain.__name__ in record.getMessage()
    assert record.getMessage().endswith("1 cancelled, 0 abandoned, 0 skipped")


async def test_on_drain_that_drains() -> None:
    """S1: an `on_drain` that waits for the very drain it ends is given up."""

    async def on_drain(report: DrainReport) -> None:
        await scope.drain()

    scope = TaskScope(on_drain=on_drain)
    async with scope:
        await scope.drain()
    assert now() < 2.0


async def test_quiet_end(caplog: pytest.LogCaptureFixture) -> None:
    """A block that ends normally, with nothing left to drain, is not worth a line."""
    caplog.set_level(logging.INFO, "taskcore")
    async with TaskScope() as scope:
        scope.schedule(asyncio.sleep, 1)
    assert caplog.records == []
    async with TaskScope() as scope:
        scope.lifecycle("end").phase("end").schedule(hang)
    assert "1 cancelled" in caplog.text


class FailingHandler(logging.Handler):
    """A log handler that is broken."""

    def emit(self, record: logging.LogRecord) -> None:
        raise OSError("disk full")


async def test_log_handler_that_fails() -> None:
    """S1: a log that cannot be written does not keep the drain from its end."""
    handler = FailingHandler()
    logger = logging.getLogger("taskcore")
    logger.addHandler(handler)
    try:
        scope = TaskScope(grace_period=6, shield_timeout=0)
        await scope.__aenter__()
        scope.schedule(swallow)
        drain = asyncio.create_task(scope.drain())
        await asyncio.sleep(8)
        assert drain.done()
        assert became(drain.result()) == {"swallow": "abandoned"}
    finally:
        logger.removeHandler(handler)


# -- more than one drain ------------------------------------------------------------------


async def test_second_drain_joins_the_first() -> None:
    """Drains at the same time, and later ones, are one drain with one report."""
    async with drained(grace_period=2) as scope:
        scope.schedule(hang)
        first, second = await asyncio.gather(scope.drain(), scope.drain())
        assert first is second
        assert await scope.drain(grace_period=None) is first
        assert now() == 2.0


@pytest.mark.parametrize(
    ("first", "second", "ends"),
    [
        ((10, 10), (1, 1), (3, 4)),  # grace period and shield timeout, and what they end up as
        ((10, 10), (0, None), (2, 20)),
        ((10, 0), (50, 0), (10, 10)),
        ((None, None), (5, 5), (7, 12)),
        ((1, None), (None, None), (1, math.inf)),
        ((1, 50), (5, 5), (1, 12)),
        ((3, 3), (None, 0), (3, 6)),
        ((5, None), (0, 0), (2, 2)),
    ],
)
async def test_second_drain_only_shortens(
    first: tuple[float | None, float | None],
    second: tuple[float | None, float | None],
    ends: tuple[float, float],
) -> None:
    """A second drain, two seconds after the first, brings deadlines forward and never back."""
    async with drained() as scope:
        journal = Journal()

        async def work() -> None:
            try:
                await hang()
            finally:
                journal.add(now())

        scope.schedule(work)
        scope.task(shield=True).schedule(work)
        drain = asyncio.create_task(scope.drain(grace_period=first[0], shield_timeout=first[1]))
        await asyncio.sleep(2)
        other = asyncio.create_task(scope.drain(grace_period=second[0], shield_timeout=second[1]))
        await asyncio.sleep(1000)
        if ends[1] == math.inf:
            assert not drain.done()
            await scope.drain(grace_period=0, shield_timeout=0)
            ends = (ends[0], 1002.0)
        assert journal.events == list(ends)
        assert await drain is await other


async def test_shortened_grace_period_and_delays() -> None:
    """S1: a delay that fitted into the first grace period does not hold up a shorter one."""
    async with drained(grace_period=50) as scope:
        scope.task(name="plain", delay=20).schedule(hang)
        scope.task(name="shielded", delay=20, shield=True).schedule(asyncio.sleep, 1)
        drain = asyncio.create_task(scope.drain())
        await asyncio.sleep(1)
        assert became(await scope.drain(grace_period=3)) == {
            "plain": "cancelled",
            "shielded": "succeeded",
        }
        assert now() <= 5.0
        await drain


async def test_drain_from_a_task_of_the_scope() -> None:
    """A task cannot drain the scope that would wait for it, and is told so."""
    async with TaskScope() as scope:
        with pytest.raises(RuntimeError, match="outside of its tasks"):
            await scope.task(on_error=ignore).schedule(scope.drain)
        assert scope.state is ScopeState.OPEN


async def test_drain_from_a_task_of_another_scope() -> None:
    """S3: a task may drain a scope that is not its own, also one that it opened itself."""
    async with drained(grace_period=1) as other:
        other.task(name="other").schedule(hang)

        async def drain_both() -> dict[str, str]:
            async with TaskScope(grace_period=1) as inner:
                inner.task(name="inner").schedule(hang)
                return became(await other.drain()) | became(await inner.drain())

        async with TaskScope() as scope:
            assert await scope.schedule(drain_both) == {
                "other": "cancelled",
                "inner": "cancelled",
            }


async def test_drain_from_inside_a_unit_of_work() -> None:
    """S3: a unit of work that is open when its scope is drained can still be closed."""
    async with drained(grace_period=1) as scope, scope.lifecycle("first", "second") as unit:
        unit.phase("second").task(name="deferred").schedule(hang)
        unit.task(name="now").schedule(hang)
        assert became(await scope.drain()) == {"deferred": "cancelled", "now": "cancelled"}


async def test_drain_of_a_scope_that_is_not_entered() -> None:
    """A scope that was never opened has nothing to drain."""
    with pytest.raises(ScopeClosedError, match="async with TaskScope"):
        await TaskScope().drain()


@pytest.mark.parametrize("option", ["grace_period", "shield_timeout"])
@pytest.mark.parametrize("length", [-1, math.nan, math.inf, "1", True])
async def test_wrong_lengths(option: str, length: Any) -> None:
    """A length of time that is none is refused, and the scope stays open."""
    async with TaskScope() as scope:
        with pytest.raises(ConfigError, match=f"{option}=.*pass seconds"):
            await scope.drain(**{option: length})
        assert scope.state is ScopeState.OPEN


async def test_drain_on_another_loop() -> None:
    """A scope is drained on its own loop only."""

    async def drain_elsewhere() -> None:
        with pytest.raises(WrongLoopError, match="belongs to another event loop"):
            await scope.drain()
        refused.append(True)

    refused: list[bool] = []
    async with TaskScope() as scope:
        thread = threading.Thread(target=run_virtual, args=(drain_elsewhere,))
        thread.start()
        thread.join()
    assert refused == [True]


# -- cancellation of whoever waits ----------------------------------------------------------


def schedule_all_kinds(scope: TaskScope) -> None:
    """A task for each way through the drain."""
    scope.task(name="finishes").schedule(asyncio.sleep, 0.5)
    scope.task(name="shielded", shield=True).schedule(asyncio.sleep, 3)
    scope.task(name="shielded waits", shield=True).schedule(asyncio.sleep, 0.5)
    scope.task(name="fails", on_error=ignore).schedule(fail, 0.5)
    scope.task(name="hangs").schedule(hang)
    scope.task(name="swallows", shield=True).schedule(swallow)
    unit = scope.lifecycle("end")
    unit.phase("end").task(name="deferred").schedule(hang)
    unit.phase("end").task(name="shielded deferred", shield=True).schedule(asyncio.sleep, 0)


ALL_KINDS = {
    "finishes": "succeeded",
    "shielded": "succeeded",
    "shielded waits": "succeeded",
    "fails": "failed",
    "hangs": "cancelled",
    "swallows": "abandoned",
    "deferred": "cancelled",
    "shielded deferred": "succeeded",
}


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("times", [1, 2])
async def test_cancelled_drain_goes_on(times: int, late: bool) -> None:
    """S2: whoever awaits a drain may be cancelled, at any await; the drain goes on."""
    scopes: list[TaskScope] = []

    async def procedure() -> DrainReport:
        scope = TaskScope(limit=6, grace_period=2, shield_timeout=3)
        scopes.append(scope)
        await scope.__aenter__()
        schedule_all_kinds(scope)
        try:
            return await scope.drain()
        finally:
            await scope.drain(grace_period=2)

    async def check(outcome: Outcome[DrainReport]) -> None:
        report = await scopes[-1].drain()
        assert became(report) == ALL_KINDS
        assert report.duration <= 2 + 3 + 2
        assert outcome.result in (None, report)

    outcomes = await cancel_at_every_await(procedure, times=times, late=late, check=check)
    assert len(outcomes) > 1


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("times", [1, 2])
async def test_cancelled_block_ends_after_its_tasks(times: int, late: bool) -> None:
    """S2: cancelled at any await, a block drains first, and passes the cancellation on."""
    scopes: list[TaskScope] = []
    drains: list[asyncio.Task[DrainReport]] = []

    async def procedure() -> str:
        async with TaskScope(limit=6, grace_period=2, shield_timeout=3) as scope:
            scopes.append(scope)
            schedule_all_kinds(scope)
            await asyncio.sleep(0)
            drains.append(asyncio.create_task(scope.drain()))  # or a normal end would not come
            await asyncio.sleep(0)
        return "end"

    async def check(outcome: Outcome[str]) -> None:
        assert scopes[-1].state is ScopeState.CLOSED  # before whoever opened it goes on
        assert became(await scopes[-1].drain()) == ALL_KINDS
        assert outcome.cancelled == (outcome.result is None) == bool(outcome.cancelled_at)
        await asyncio.gather(*drains)

    outcomes = await cancel_at_every_await(procedure, times=times, late=late, check=check)
    assert len(outcomes) > 1


async def test_cancelled_normal_end() -> None:
    """S2: a cancellation while a normal end waits makes it drain, and comes out after it."""
    tasks: list[Task[..., object]] = []

    async def block() -> None:
        async with TaskScope(grace_period=1, shield_timeout=50) as scope:
            tasks.append(scope.schedule(hang))
            tasks.append(scope.task(shield=True).schedule(asyncio.sleep, 20))

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(block(), 5)
    assert [task.state for task in tasks] == [TaskState.CANCELLED, TaskState.SUCCEEDED]
    assert now() == 20.0


async def test_block_that_raises() -> None:
    """S2: a block that raises drains before its error goes on."""
    tasks: list[Task[..., object]] = []

    async def block() -> None:
        async with TaskScope(grace_period=1, shield_timeout=50) as scope:
            tasks.append(scope.schedule(hang))
            tasks.append(scope.task(shield=True).schedule(asyncio.sleep, 20))
            raise LookupError

    with pytest.raises(LookupError):
        await block()
    assert [task.state for task in tasks] == [TaskState.CANCELLED, TaskState.SUCCEEDED]
    assert now() == 20.0


# -- at the last moment ----------------------------------------------------------------------


class Late(TaskScope):
    """A scope that a thread reaches when it is about to close, though accepted before."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.accepted, self._closing, self._sent = (threading.Event() for _ in range(3))

    def _send(self, arrive: Callable[..., None], *args: Any) -> bool:
        self.accepted.set()
        self._closing.wait()
        is_sent = super()._send(arrive, *args)
        self._sent.set()
        return is_sent

    def _try_close(self) -> bool:
        if not self._tasks:
            self._closing.set()
            self._sent.wait()
        return super()._try_close()


@pytest.mark.parametrize(
    ("stage", "grace_period", "shield_timeout", "state"),
    [
        (ScopeState.DRAINING, 5, 5, "succeeded"),
        (ScopeState.CANCELLING, 0, 5, "succeeded"),
        (ScopeState.ABANDONING, 0, 0, "cancelled"),
    ],
)
async def test_thread_that_comes_at_the_last_moment(
    stage: ScopeState, grace_period: float, shield_timeout: float, state: str
) -> None:
    """S3: in each stage, what a thread was allowed to schedule is in the report."""
    scope = Late()
    await scope.__aenter__()

    def schedule() -> None:
        scope.task(name="late").schedule(asyncio.sleep, 1)

    async def work() -> None:
        thread = threading.Thread(target=copy_context().run, args=(schedule,))
        while not scope.accepted.is_set():
            if scope.state is stage and thread.ident is None:
                thread.start()
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(0)

    scope.task(shield=True, name="work").schedule(work)
    report = await scope.drain(grace_period=grace_period, shield_timeout=shield_timeout)
    assert became(report) == {"work": "succeeded", "late": state}


async def test_cancelling_takes_long() -> None:
    """S1: what is cancelled last has its time to stop, however long it took to cancel the rest."""
    loop = cast("VirtualClockLoop", asyncio.get_running_loop())

    def take_long(event: TaskEvent) -> None:
        if event.kind == "finished":
            loop._now += 1

    async with drained(limit=1, observers=[take_long]) as scope:
        scope.schedule(hang)
        for number in range(3):
            scope.task(name=f"waits {number}").schedule(hang)
        await asyncio.sleep(0)
        report = await scope.drain(grace_period=0)
    assert set(became(report).values()) == {"cancelled"}
