"""Units of work and their phases: what starts when, what is skipped, and what is refused."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest

from taskcore import Lifecycle, Phase, TaskConfig, TaskEvent, TaskScope, TaskState
from taskcore.errors import ConfigTypeError, ConfigValueError, UnknownPhaseError
from taskcore.spi import current_unit
from tests.helpers import Journal, Outcome, cancel_at_every_await


async def nothing() -> None:
    pass


async def test_phases_in_order() -> None:
    """T2: immediate tasks start first, then those of each phase, in the order of the calls."""
    journal = Journal()

    async def begin(*what: object) -> None:
        journal.add(what)

    async with TaskScope() as scope, scope.lifecycle("stored", "answered") as unit:
        for number in range(3):
            unit.phase("answered").schedule(begin, "answered", number)
            unit.phase("stored").schedule(begin, "stored", number)
            unit.schedule(begin, "now", number)
        await asyncio.sleep(0)
        assert journal.events == [("now", number) for number in range(3)]
        assert unit.advance("stored")
        await asyncio.sleep(0)
        assert journal.events[3:] == [("stored", number) for number in range(3)]
        assert unit.advance("answered")
        await asyncio.sleep(0)
        assert journal.events[6:] == [("answered", number) for number in range(3)]


async def test_order_in_a_phase_of_mixed_tasks() -> None:
    """T2: order inside a phase holds for tasks of every configuration, under a limit too."""
    journal = Journal()

    async def begin(number: int) -> None:
        journal.add(number)
        await asyncio.sleep(0)

    for limit in (None, 2):
        async with TaskScope(limit=limit) as scope, scope.lifecycle("end") as unit:
            phase = unit.phase("end")
            targets = [phase, phase.task(shield=True), phase.task(timeout=60), unit.phase("end")]
            for number in range(12):
                targets[number % 4].schedule(begin, number)
    assert journal.events == [*range(12), *range(12)]


async def test_passing_over_a_phase() -> None:
    """Reaching a phase reaches those before it, in order; none is reached twice."""
    journal = Journal()

    async def begin(what: str) -> None:
        journal.add(what)

    async with TaskScope() as scope, scope.lifecycle("one", "two", "three") as unit:
        for name in ("three", "two", "one"):
            unit.phase(name).schedule(begin, name)
        assert not unit.is_reached("one")
        assert unit.advance("two")
        assert unit.is_reached("one")
        assert unit.is_reached("two")
        assert not unit.is_reached("three")
        assert not unit.advance("two")
        assert not unit.advance("one")
        assert [unit.phase(name).is_reached for name in unit.phases] == [True, True, False]
    assert journal.events == ["one", "two", "three"]


async def test_phase_already_reached() -> None:
    """T5: what is scheduled on a phase already reached starts at once."""
    async with TaskScope() as scope, scope.lifecycle("one", "two") as unit:
        unit.advance("one")
        task = unit.phase("one").schedule(nothing)
        assert task.state is TaskState.SCHEDULED
    late = None
    async with TaskScope() as scope:
        async with scope.lifecycle("one") as unit:
            pass
        late = unit.phase("one").schedule(nothing)
    assert task.state is late.state is TaskState.SUCCEEDED


async def test_scheduled_while_the_phase_is_reached() -> None:
    """T5: nothing is forgotten of what tasks of a phase schedule on it and on later ones."""
    journal = Journal()

    async with TaskScope() as scope, scope.lifecycle("one", "two") as unit:

        async def begin(what: str) -> None:
            journal.add(what)
            if what == "first":
                unit.phase("one").schedule(begin, "second")
                unit.phase("two").schedule(begin, "third")

        unit.phase("one").schedule(begin, "first")
    assert sorted(map(str, journal.events)) == ["first", "second", "third"]
    journal.assert_order("first", "second")
    journal.assert_order("first", "third")


@pytest.mark.parametrize("reach", [True, False])
async def test_observer_that_goes_on_before_the_phase_is_over(reach: bool) -> None:
    """T2: what an observer of a skipped task schedules, or starts, comes after its phase."""
    journal = Journal()

    async def begin(what: str) -> None:
        journal.add(what)

    def observe(event: TaskEvent) -> None:
        if event.kind == "skipped":
            if reach:
                unit.advance("two")
            else:
                unit.phase("one").schedule(begin, "last")

    async with TaskScope(observers=[observe]) as scope, scope.lifecycle("one", "two") as unit:
        unit.phase("one").task(when="failure").schedule(begin, "skipped")
        unit.phase("one").schedule(begin, "first")
        if reach:
            unit.phase("two").schedule(begin, "last")
        unit.advance("one")
    assert journal.events == ["first", "last"]


async def test_unwanted_task_that_an_observer_cancels() -> None:
    """A task that is to be skipped may be cancelled before."""

    def cancel_last(event: TaskEvent) -> None:
        if event.kind == "skipped":
            assert last.cancel()

    async with TaskScope(observers=[cancel_last]) as scope, scope.lifecycle("end") as unit:
        first = unit.phase("end").task(when="failure").schedule(nothing)
        last = unit.phase("end").task(when="failure").schedule(nothing)
    assert (first.state, last.state) == (TaskState.SKIPPED, TaskState.CANCELLED)


async def test_end_reaches_what_is_left() -> None:
    """T5: the end of the block reaches the phases that are left, and does not wait for tasks."""
    release = asyncio.Event()
    async with TaskScope() as scope:
        async with scope.lifecycle("one", "two") as unit:
            tasks = [unit.phase(name).schedule(release.wait) for name in unit.phases]
        assert [task.done() for task in tasks] == [False, False]
        await tasks[1].started.wait()
        release.set()


WHEN: list[tuple[str | None, bool, bool]] = [  # when, runs after success, runs after failure
    (None, True, False),
    ("success", True, False),
    ("failure", False, True),
    ("always", True, True),
]


@pytest.mark.parametrize("fails", [False, True], ids=["success", "failure"])
@pytest.mark.parametrize(("when", "after_success", "after_failure"), WHEN)
async def test_when(when: Any, after_success: bool, after_failure: bool, fails: bool) -> None:
    """T6: `when` says whether a deferred task runs after success, failure, or both."""
    runs = after_failure if fails else after_success
    async with TaskScope() as scope:
        unit = scope.lifecycle("end")
        with pytest.raises(LookupError) if fails else contextlib.nullcontext():
            async with unit:
                task = unit.phase("end").task(when=when).schedule(nothing)
                assert not unit.failed
                if fails:
                    raise LookupError
        assert unit.failed == fails
        await task.wait()
        assert task.state is (TaskState.SUCCEEDED if runs else TaskState.SKIPPED)
        # The same holds for what comes when the phase has been reached.
        late = unit.phase("end").task(when=when).schedule(nothing)
        in_thread = await asyncio.to_thread(unit.phase("end").task(when=when).schedule, nothing)
        await in_thread.wait()
        await late.wait()
        assert late.state is in_thread.state is task.state


async def test_failure_between_two_phases() -> None:
    """T6: what counts is whether the unit succeeded so far, when the phase is reached."""
    async with TaskScope() as scope, scope.lifecycle("one", "two") as unit:
        tasks = [unit.phase(name).schedule(nothing) for name in unit.phases]
        unit.advance("one")
        unit.fail()
        unit.advance("two")
        await tasks[0]
        assert [task.state.value for task in tasks] == ["succeeded", "skipped"]


async def test_immediate_task_of_a_failed_unit() -> None:
    """T6: `when` is a matter of deferred tasks; an immediate one runs in any case."""
    async with TaskScope() as scope, scope.lifecycle("end") as unit:
        unit.fail()
        task = unit.schedule(nothing)
    assert task.state is TaskState.SUCCEEDED


async def test_unit_that_is_cancelled() -> None:
    """T6: a block that is cancelled has failed."""
    entered = asyncio.Event()
    async with TaskScope() as scope:
        unit = scope.lifecycle("end")
        task = unit.phase("end").schedule(nothing)
        audit = unit.phase("end").task(when="always").schedule(nothing)

        async def work() -> None:
            async with unit:
                entered.set()
                await asyncio.Event().wait()

        worker = asyncio.create_task(work())
        await entered.wait()
        worker.cancel()
        await asyncio.wait([worker])
        await audit
        assert worker.cancelled()
        assert task.state is TaskState.SKIPPED


async def test_cancelled_at_every_await() -> None:
    """T5: whatever is cancelled around a unit, each of its tasks ends, and none runs twice."""
    journal = Journal()

    async def note(what: str) -> None:
        journal.add(what)
        await asyncio.sleep(0)

    async def procedure() -> None:
        async with TaskScope(grace_period=60) as scope, scope.lifecycle("one", "two") as unit:
            await scope.schedule(asyncio.sleep, 0)
            unit.phase("two").task(when="always").schedule(note, "always")
            unit.phase("one").schedule(note, "one")
            await asyncio.sleep(0)
            unit.advance("one")
            await asyncio.sleep(0)

    def check(outcome: Outcome[None]) -> None:
        events, journal._events = journal._events, []
        assert events in (["one", "always"], ["always"], [])
        if not outcome.cancelled_at:
            assert events == ["one", "always"]

    for late in (False, True):
        outcomes = await cancel_at_every_await(procedure, times=2, late=late, check=check)
        assert len(outcomes) > 3


@pytest.mark.virtual
async def test_delay_after_a_phase() -> None:
    """A delay counts from the moment at which the phase is reached."""
    times: list[float] = []

    async def begin() -> None:
        times.append(asyncio.get_running_loop().time())

    async with TaskScope() as scope, scope.lifecycle("end") as unit:
        task = unit.phase("end").task(delay=5).schedule(begin)
        await asyncio.sleep(10)
        unit.advance("end")
        assert task.state is TaskState.DEFERRED
        late = unit.phase("end").task(delay=7).schedule(begin)
        assert late.state is TaskState.DEFERRED
        await scope.wait_idle()
    assert times == [15.0, 17.0]


async def test_deferred_task_is_cancelled() -> None:
    """A deferred task that is cancelled does not start when its phase is reached."""
    async with TaskScope(limit=1, backlog=1) as scope, scope.lifecycle("end") as unit:
        tasks = [unit.phase("end").schedule(nothing) for _ in range(2)]
        assert tasks[0].cancel()
        assert tasks[0].cancelled()
        unit.phase("end").schedule(nothing)  # takes the place that was given up
        assert unit.advance("end")
        await tasks[1]
        assert tasks[0].state is TaskState.CANCELLED
        assert not tasks[0].started.is_set()


# -- what a unit knows --------------------------------------------------------------------


async def test_configs_of_a_unit() -> None:
    """Settings of scope, unit, phase and task are laid over each other, the nearest wins."""
    async with TaskScope(config=TaskConfig(name="scope", timeout=60)) as scope:
        unit = scope.lifecycle("end", config=TaskConfig(name="unit", shield=True))
        assert unit.config == TaskConfig(name="unit", shield=True, timeout=60)
        assert unit.phase("end").config == unit.config
        assert unit.phase("end").task(name="task").config.name == "task"
        before = unit.phase("end")
        unit.refine(TaskConfig(name="refined"))
        assert unit.config == TaskConfig(name="refined", shield=True, timeout=60)
        assert before.config.name == "unit"
        assert scope.lifecycle("end").config == scope.config
        assert unit.phase("end").name == "end"
        assert unit.phases == ("end",)
        assert isinstance(unit, Lifecycle)
        assert isinstance(before, Phase)
        unit.close()


async def test_current_unit() -> None:
    """The unit of the block is the current one inside it, and in the tasks scheduled there."""
    seen: list[Lifecycle | None] = []

    async def look() -> None:
        seen.append(current_unit())

    async with TaskScope() as scope:
        assert current_unit() is None
        async with scope.lifecycle("end") as outer:
            assert current_unit() is outer
            async with scope.lifecycle("end") as inner:
                assert current_unit() is inner
                await scope.schedule(look)
            assert current_unit() is outer
            outer.phase("end").schedule(look)
        assert current_unit() is None
    assert seen == [inner, outer]


async def test_unit_without_a_block() -> None:
    """Adapters may do without the block: `fail` and `close` do what its end would."""
    async with TaskScope() as scope:
        unit = scope.lifecycle("one", "two")
        task = unit.phase("two").schedule(nothing)
        unit.fail()
        unit.close()
        unit.close()
        assert task.state is TaskState.SKIPPED


# -- wrong use ----------------------------------------------------------------------------


async def test_unknown_phase() -> None:
    """I7: an unknown phase is refused, and the message names those that exist."""
    async with TaskScope() as scope, scope.lifecycle("stored", "answered") as unit:
        for ask in (unit.phase, unit.advance, unit.is_reached):
            with pytest.raises(
                UnknownPhaseError,
                match="'sent': this unit has 'stored', 'answered'; write one of these, or add it",
            ) as caught:
                ask("sent")
            assert (caught.value.phase, caught.value.known) == ("sent", ("stored", "answered"))


@pytest.mark.parametrize("phases", [(), ("one", "two", "one")])
async def test_phases_without_an_order(phases: tuple[str, ...]) -> None:
    """I7: a unit without phases, or with one twice, is refused."""
    async with TaskScope() as scope:
        with pytest.raises(ConfigValueError, match=r"write scope\.lifecycle\('first', 'second'\)"):
            scope.lifecycle(*phases)


async def test_phase_that_is_no_string() -> None:
    """I7: a phase is named by a string, and the message says so."""
    async with TaskScope() as scope:
        phase: Any = 3
        with pytest.raises(ConfigTypeError, match="pass its name"):
            scope.lifecycle("one", phase)


async def test_config_of_a_unit_that_is_none() -> None:
    """I7: a unit's config has to be a `TaskConfig`."""
    async with TaskScope() as scope:
        config: Any = {"name": "x"}
        with pytest.raises(ConfigTypeError, match="pass a TaskConfig"):
            scope.lifecycle("one", config=config)
