"""The table of moves: that it is all there is, that all of it is needed, and that it holds."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import threading
import weakref
from collections.abc import Callable, Coroutine
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

from taskcore import Lifecycle, ScopeState, Task, TaskConfig, TaskScope, TaskState
from taskcore._clock import VirtualClockLoop
from taskcore._task import FINAL, MOVES
from taskcore.errors import BacklogFullError
from taskcore.spi import Scheduler, When
from tests.taskcore.conftest import FIRST, Move

S = TaskState


async def nothing() -> None:
    pass


# -- the table ----------------------------------------------------------------------------


def test_table_is_whole() -> None:
    """Every state has a line, every state can be reached, and final ones lead nowhere."""
    assert set(MOVES) == set(TaskState)
    reached, todo = set[TaskState](), set(FIRST)
    while todo:
        reached |= todo
        todo = {after for state in todo for after in MOVES[state]} - reached
    assert reached == set(TaskState)
    assert set(FINAL) == {S.SUCCEEDED, S.FAILED, S.CANCELLED, S.SKIPPED, S.ABANDONED}
    assert [state for state in FINAL if MOVES[state]] == []


async def stubborn() -> None:
    """Swallows every cancellation, until the loop is closed."""
    while True:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()


class Stubborn:
    """A limiter that never lets anybody in, and swallows every cancellation."""

    async def __aenter__(self) -> None:
        await stubborn()

    async def __aexit__(self, *exc: object) -> None:
        pass


async def no_call(func: Callable[..., Any], *args: Any) -> None:
    """A retry that returns without a call."""


async def through_a_phase(scope: TaskScope) -> None:
    async with scope.lifecycle("end") as unit:
        unit.phase("end").schedule(nothing)


async def behind_another(scope: TaskScope) -> None:
    scope.schedule(nothing)  # has the one slot
    await through_a_phase(scope)


async def past_a_phase(scope: TaskScope) -> None:
    async with scope.lifecycle("end") as unit:
        unit.phase("end").task(when="failure").schedule(nothing)


async def cancelled_before_its_phase(scope: TaskScope) -> None:
    async with scope.lifecycle("end") as unit:
        unit.phase("end").schedule(nothing).cancel()


async def cancelled_while_it_waits(scope: TaskScope) -> None:
    scope.schedule(nothing)
    scope.schedule(nothing).cancel()


async def returned_before_it_began(scope: TaskScope) -> None:
    scope.task(retry=no_call).schedule(nothing)


async def failed_before_it_began(scope: TaskScope) -> None:
    semaphore = asyncio.BoundedSemaphore(1)

    class Broken:
        async def __aenter__(self) -> None:
            semaphore.release()

        async def __aexit__(self, *exc: object) -> None:
            pass

    scope.task(limiter=Broken()).schedule(nothing)


async def cancelled_before_it_began(scope: TaskScope) -> None:
    scope.schedule(nothing).cancel()


async def hung_before_it_began(scope: TaskScope) -> None:
    scope.task(limiter=Stubborn()).schedule(nothing)
    await asyncio.sleep(0)
    await scope.drain(grace_period=0, shield_timeout=0)


async def failed(scope: TaskScope) -> None:
    async def fail() -> None:
        raise ValueError

    scope.schedule(fail)


async def cancelled(scope: TaskScope) -> None:
    task = scope.schedule(asyncio.Event().wait)
    await task.started.wait()
    task.cancel()


async def hung(scope: TaskScope) -> None:
    scope.schedule(stubborn)
    await asyncio.sleep(0)
    await scope.drain(grace_period=0, shield_timeout=0)


STORIES: dict[Move, Callable[[TaskScope], Coroutine[Any, Any, None]]] = {
    (S.DEFERRED, S.WAITING): behind_another,
    (S.DEFERRED, S.SCHEDULED): through_a_phase,
    (S.DEFERRED, S.SKIPPED): past_a_phase,
    (S.DEFERRED, S.CANCELLED): cancelled_before_its_phase,
    (S.WAITING, S.SCHEDULED): behind_another,
    (S.WAITING, S.CANCELLED): cancelled_while_it_waits,
    (S.SCHEDULED, S.RUNNING): through_a_phase,
    (S.SCHEDULED, S.SUCCEEDED): returned_before_it_began,
    (S.SCHEDULED, S.FAILED): failed_before_it_began,
    (S.SCHEDULED, S.CANCELLED): cancelled_before_it_began,
    (S.SCHEDULED, S.ABANDONED): hung_before_it_began,
    (S.RUNNING, S.SUCCEEDED): through_a_phase,
    (S.RUNNING, S.FAILED): failed,
    (S.RUNNING, S.CANCELLED): cancelled,
    (S.RUNNING, S.ABANDONED): hung,
}


def named(move: Move) -> str:
    return "-".join(state.value for state in move if state)


@pytest.mark.virtual
@pytest.mark.parametrize(
    "move", [(state, after) for state in MOVES for after in MOVES[state]], ids=named
)
async def test_move_is_needed(move: Move, moves: list[Move]) -> None:
    """Each move of the table is made by some story, so the table allows nothing in vain."""
    async with TaskScope(limit=1, config=TaskConfig(on_error=ignore)) as scope:
        await STORIES[move](scope)
    assert move in moves


async def ignore(task: Task[..., Any], error: BaseException) -> None:
    pass


# -- any story at all ---------------------------------------------------------------------

PHASES = ("one", "two", "three")
Command = Callable[[], object]


class Record:
    """What the model knows of one task."""

    def __init__(self, number: int, phase: int | None, when: When, delay: float | None) -> None:
        self.number = number
        self.phase = phase
        self.when: When = when
        self.delay = delay
        self.state = S.DEFERRED
        self.due = 0.0
        self.task: Task[..., Any]
        self.commands: asyncio.Queue[Command] = asyncio.Queue()


class TaskMachine(RuleBasedStateMachine):
    """Schedules, advances, fails, cancels and waits, and holds the scope against a model.

    The model: who holds a slot, who waits for one, in order, and who waits for a phase or
    a delay. A task runs until it gets a command, and starts are noted in the order they
    happen, so that nothing is lost, run twice or run out of order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner(loop_factory=VirtualClockLoop)
        self.loop = self.runner.get_loop()
        self.numbers = itertools.count()
        self.records: list[Record] = []
        self.begun: list[int] = []
        self.expected: list[int] = []
        self.waiting: list[Record] = []
        self.deferred: list[list[Record]] = []
        self.delayed: list[Record] = []
        self.reached = 0
        self.failed = False
        self.now = 0
        self.scope: TaskScope | None = None

    @initialize(limit=st.sampled_from([None, 1, 2]), backlog=st.sampled_from([None, 0, 2]))
    def open(self, limit: int | None, backlog: int | None) -> None:
        self.limit = limit
        self.backlog = backlog if limit is not None else None
        self.scope = TaskScope(
            limit=limit, backlog=self.backlog, config=TaskConfig(on_error=ignore), grace_period=3
        )
        self.runner.run(self.scope.__aenter__())
        self.open_unit()

    def open_unit(self) -> None:
        assert self.scope is not None
        self.unit: Lifecycle = self.scope.lifecycle(*PHASES)
        self.deferred = [[] for _ in PHASES]
        self.reached, self.failed = 0, False

    # -- how things are done: on the loop, from a thread, from inside a task --------------

    def perform(self, command: Command, place: str) -> object:
        """Do something in a place, let the loop settle, and return what came of it."""
        answers: list[object] = []

        def do() -> None:
            try:
                answers.append(command())
            except BacklogFullError as error:
                answers.append(error)

        running = [record for record in self.records if record.state is S.RUNNING]
        if place == "thread":
            thread = threading.Thread(target=do)
            thread.start()
            thread.join()
        elif place == "task" and running:
            running[-1].commands.put_nowait(do)
        else:
            self.runner.run(on_loop(do))
        self.settle()
        (answer,) = answers
        return answer

    def settle(self) -> None:
        self.runner.run(turns())

    # -- the model ------------------------------------------------------------------------

    @property
    def slots_taken(self) -> int:
        return sum(record.state is S.RUNNING for record in self.records)

    @property
    def reserved(self) -> int:
        return sum(record.state is S.DEFERRED for record in self.records)

    def has_slot(self) -> bool:
        return self.limit is None or self.slots_taken < self.limit

    def is_full(self) -> bool:
        if self.limit is None or self.backlog is None:
            return False
        accepted = self.slots_taken + len(self.waiting) + self.reserved
        return accepted >= self.limit + self.backlog

    def admit(self, record: Record) -> None:
        if self.has_slot():
            record.state = S.RUNNING
            self.expected.append(record.number)
        else:
            record.state = S.WAITING
            self.waiting.append(record)

    def end(self, record: Record, state: TaskState) -> None:
        if record.state is S.WAITING:
            self.waiting.remove(record)
        had_slot = record.state is S.RUNNING
        record.state = state
        if had_slot and self.waiting:
            self.admit(self.waiting.pop(0))

    def wants(self, when: str) -> bool:
        return when == "always" or (when == "failure") == self.failed

    def reach(self, upto: int) -> None:
        for index in range(self.reached, upto):
            self.reached = index + 1
            for record in self.deferred[index]:
                if record.state is not S.DEFERRED:
                    continue
                if not self.wants(record.when):
                    record.state = S.SKIPPED
                elif record.delay is None:
                    self.admit(record)
                else:
                    self.delay(record)

    def delay(self, record: Record) -> None:
        assert record.delay is not None
        record.due = self.now + record.delay
        self.delayed.append(record)

    # -- rules ----------------------------------------------------------------------------

    places = st.sampled_from(["loop", "thread", "task"])
    picks = st.integers(0, 1000)

    @rule(
        count=st.integers(1, 4),
        place=places,
        phase=st.sampled_from([None, None, *range(len(PHASES))]),
        when=st.sampled_from(["success", "success", "failure", "always"]),
        delay=st.sampled_from([None, None, None, 1, 3]),
        direct=st.booleans(),
    )
    def schedule(
        self, count: int, place: str, phase: int | None, when: When, delay: int | None, direct: bool
    ) -> None:
        for _ in range(count):
            number = next(self.numbers)
            # Timers of equal times fire in no order, so every delay has a time of its own.
            unique = None if delay is None else delay + number / 1000
            self.schedule_one(place, Record(number, phase, when, unique), direct)

    def target(self, record: Record, direct: bool) -> Scheduler:
        assert self.scope is not None
        options: dict[str, Any] = {} if direct else {"timeout": 1e6}
        if record.delay is not None:
            options["delay"] = record.delay
        if record.phase is not None:
            phase = self.unit.phase(PHASES[record.phase])
            return phase.task(when=record.when, **options)
        return self.scope.task(**options) if options else self.scope

    def schedule_one(self, place: str, record: Record, direct: bool) -> None:
        target = self.target(record, direct)
        reached = record.phase is None or record.phase < self.reached
        at_once = record.phase is None or (reached and self.wants(record.when))
        refused = self.is_full()
        answer = self.perform(
            lambda: target.schedule(work, record.number, record.commands, self.begun), place
        )
        if refused:
            assert isinstance(answer, BacklogFullError)
            return
        assert isinstance(answer, Task)
        record.task = answer
        self.records.append(record)
        if not reached:
            assert record.phase is not None
            self.deferred[record.phase].append(record)
        elif not at_once:
            record.state = S.SKIPPED
        elif record.delay is None:
            self.admit(record)
        else:
            self.delay(record)

    @precondition(lambda self: any(record.state is S.RUNNING for record in self.records))
    @rule(pick=picks, fails=st.booleans())
    def finish(self, pick: int, fails: bool) -> None:
        running = [record for record in self.records if record.state is S.RUNNING]
        record = running[pick % len(running)]
        record.commands.put_nowait(fail if fails else stop)
        self.settle()
        self.end(record, S.FAILED if fails else S.SUCCEEDED)

    @precondition(lambda self: self.records)
    @rule(pick=picks, place=places)
    def cancel(self, pick: int, place: str) -> None:
        record = self.records[pick % len(self.records)]
        answer = self.perform(record.task.cancel, place)
        assert answer == (record.state not in FINAL)
        if record.state not in FINAL:
            self.end(record, S.CANCELLED)

    @rule(phase=st.integers(0, len(PHASES) - 1), place=places, fails=st.booleans())
    def advance(self, phase: int, place: str, fails: bool) -> None:
        if fails:
            self.unit.fail()
            self.failed = True
        self.perform(lambda: self.unit.advance(PHASES[phase]), place)
        self.reach(phase + 1)

    @precondition(lambda self: self.reached)
    @rule()
    def next_unit(self) -> None:
        self.perform(self.unit.close, "loop")
        self.reach(len(PHASES))
        self.open_unit()

    @rule(seconds=st.integers(1, 4))
    def wait(self, seconds: int) -> None:
        self.runner.run(asyncio.sleep(seconds))
        self.settle()
        self.now += seconds
        late = [record for record in self.delayed if record.due <= self.now]
        for record in sorted(late, key=lambda record: record.due):
            self.delayed.remove(record)
            if record.state is S.DEFERRED:
                self.admit(record)

    @rule()
    def forget_finished(self) -> None:
        """Drop the handles of finished tasks: nothing else may hold them."""
        gone = [weakref.ref(record.task) for record in self.records if record.state in FINAL]
        for records in (self.records, self.delayed, *self.deferred):
            records[:] = [record for record in records if record.state not in FINAL]
        gc.collect()  # what failed is held by its own traceback
        assert [ref() for ref in gone if ref() is not None] == []

    @invariant()
    def matches_the_model(self) -> None:
        for record in self.records:
            assert (record.number, record.task.state) == (record.number, record.state)
        assert self.begun == self.expected

    def teardown(self) -> None:
        if self.scope is not None:
            self.forget_finished()
            self.runner.run(on_loop(self.unit.close))
            for record in self.records:
                record.commands.put_nowait(stop)
            self.runner.run(self.scope.__aexit__(None, None, None))
            assert self.scope.state is ScopeState.CLOSED
            assert [record.task for record in self.records if not record.task.done()] == []
            assert len(self.begun) == len(set(self.begun))
            assert (self.scope._tasks, self.scope._deferred, self.scope._timers) == ({}, {}, {})
            if (lane := self.scope._lane) is not None:
                assert (lane.taken, lane.waiting, lane.reserved) == (0, 0, 0)
        self.runner.close()


async def on_loop(command: Command) -> None:
    command()


async def turns() -> None:
    """Let the loop do all that it can do without waiting."""
    for _ in range(10):
        await asyncio.sleep(0)


def stop() -> None:
    raise StopAsyncIteration


def fail() -> None:
    raise ValueError


async def work(number: int, commands: asyncio.Queue[Command], begun: list[int]) -> None:
    """A task that does what it is told, until it is told to stop or to fail."""
    begun.append(number)
    while True:
        try:
            (await commands.get())()
        except StopAsyncIteration:
            return


@pytest.mark.timeout(300)  # a story that fails takes a while to be made short
def test_any_story() -> None:
    """L1, L4, T2, T5, T6, I6, I8: whatever happens in whatever order, the scope is as its model."""
    run_state_machine_as_test(
        TaskMachine, settings=settings(max_examples=60, stateful_step_count=30, deadline=None)
    )
