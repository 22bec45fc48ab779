"""Shutdown of a scope: close intake, wait, cancel, abandon, report.

The stages, each entered once, in this order, any of them left early when nothing is
left to wait for:

    draining     Intake is closed. Everything accepted goes on, until the grace period
                 ends.
    cancelling   Unshielded tasks have been cancelled; shielded ones go on, until the
                 shield timeout ends.
    abandoning   Everything has been cancelled.
    closed       Nothing is left, and the report is complete.

In every stage, what waits for a moment that will not come is settled (a shielded task
starts, another is cancelled), and what was cancelled and has not stopped after
`STOP_TIME` is abandoned.

Invariants:
    - A drain runs in an asyncio task of its own, which nobody can cancel. Whoever
      awaits it may be cancelled; the drain goes on.
    - It ends within grace period + shield timeout + 2 s, whatever tasks do: what was
      cancelled has `STOP_TIME` and a quarter of a second, an async `on_drain` half a second.
    - Every task that had not finished when it began, or was accepted since, is in the
      report exactly once.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TypeAlias

from taskcore._attempts import OWN_FILES, STOP_TIME
from taskcore._frozen import frozen
from taskcore._intake import Intake
from taskcore._log import coroutine_stack, say, say_abandoned
from taskcore._shield import abandon, hide
from taskcore._state import FINAL, ScopeState, TaskState
from taskcore._task import AnyTask

LOG_INTERVAL = 5.0
"""Seconds between two lines that name what a drain still waits for."""
ON_DRAIN_TIME = 0.5
"""Seconds that an async `on_drain` may take, so that the drain keeps its bound."""
_NAMED = 10  # tasks that a line names at the most


@frozen(slots=True)
class DrainEntry:
    """What became of one task.

    Attributes:
        name: The task's name.
        id: The task's id.
        duration: Seconds from its start to its end, 0 if it never began.
    """

    name: str
    id: int
    duration: float


@frozen(slots=True)
class DrainReport:
    """What became of the tasks that had not finished when the drain began.

    Tasks that shielded ones scheduled during the drain are in it as well.

    Attributes:
        succeeded: Tasks whose function returned.
        failed: Tasks whose function raised; each was logged or given to its `on_error`.
        cancelled: Tasks that were cancelled, begun or not.
        abandoned: Tasks that did not stop when cancelled; the log says where they hang.
        skipped: Deferred tasks that `when` kept from running.
        duration: Seconds that the whole drain took.
    """

    succeeded: tuple[DrainEntry, ...] = ()
    failed: tuple[DrainEntry, ...] = ()
    cancelled: tuple[DrainEntry, ...] = ()
    abandoned: tuple[DrainEntry, ...] = ()
    skipped: tuple[DrainEntry, ...] = ()
    duration: float = 0.0

    def __str__(self) -> str:
        """The summary that is logged."""
        return (
            f"{len(self.succeeded)} succeeded, {len(self.failed)} failed, "
            f"{len(self.cancelled)} cancelled, {len(self.abandoned)} abandoned, "
            f"{len(self.skipped)} skipped"
        )


OnDrain: TypeAlias = Callable[[DrainReport], object]
"""Called with the report when a drain has ended, sync or async."""


class Drain:
    """One drain of one scope.

    Args:
        scope: The scope.
        grace_period: Seconds until unshielded tasks are cancelled; `None` is no limit.
        shield_timeout: Seconds from then until shielded ones are; `None` is no limit.
        on_drain: Called with the report; without it, a summary is logged.
        quiet: Tell nobody if there was nothing to drain.
    """

    def __init__(
        self,
        scope: Intake,
        grace_period: float | None,
        shield_timeout: float | None,
        on_drain: OnDrain | None,
        quiet: bool,
    ) -> None:
        self.report: DrainReport | None = None
        self.is_over = False
        self._scope = scope
        self._loop = scope._loop
        self._on_drain = on_drain
        self._quiet = quiet
        self._began = self._loop.time()
        self._grace_end, self._shield_end = self._deadlines(grace_period, shield_timeout)
        self._entries: dict[TaskState, list[DrainEntry]] = {state: [] for state in FINAL}
        self._shielded: dict[AnyTask, None] = {}
        self._stop_by: dict[AnyTask, float] = {}  # what was cancelled, the earliest first
        self._alarm: asyncio.Future[None] | None = None
        self._waiters: list[asyncio.Future[None]] = []
        runner = asyncio.Task(self._run(), loop=self._loop, name=f"drain of {scope.name}")
        hide(runner)

    def _deadlines(
        self, grace_period: float | None, shield_timeout: float | None
    ) -> tuple[float, float]:
        grace = math.inf if grace_period is None else self._loop.time() + grace_period
        return grace, math.inf if shield_timeout is None else grace + shield_timeout

    def shorten(self, grace_period: float | None, shield_timeout: float | None) -> None:
        """Bring the deadlines forward to what another caller asks for; never back."""
        grace_end, shield_end = self._deadlines(grace_period, shield_timeout)
        self._grace_end = min(self._grace_end, grace_end)
        self._shield_end = min(self._shield_end, shield_end)
        self.wake()

    async def wait(self) -> DrainReport:
        """Wait for the report; cancelling the caller leaves the drain as it is."""
        if self.report is None:
            await self.wait_over()
        assert self.report is not None
        return self.report

    async def wait_over(self) -> None:
        """Wait until `on_drain` has had the report as well."""
        while not self.is_over:
            waiter = self._loop.create_future()
            self._waiters.append(waiter)
            await waiter

    # -- what intake asks and tells ---------------------------------------------------------

    def refuses(self, task: AnyTask) -> bool:
        """Whether it is too late for `task` to start."""
        state = self._scope._state
        return state is ScopeState.ABANDONING or (
            state is ScopeState.CANCELLING and not task.config.shield
        )

    def accepted(self, task: AnyTask) -> None:
        """A task was accepted during the drain, or before it."""
        if task.config.shield:
            self._shielded[task] = None
        if task._state is TaskState.DEFERRED:
            self.wake()  # its moment may be one that will not come

    def ended(self, task: AnyTask) -> None:
        """A task came into a final state."""
        entry = DrainEntry(task.name, task.id, task._took() or 0.0)
        self._entries[task._state].append(entry)
        self._shielded.pop(task, None)
        self._stop_by.pop(task, None)
        cancelling = self._scope._state is ScopeState.CANCELLING
        # A deferred task may have lost the task that would have brought its phase.
        if self._is_idle() or self._scope._deferred or (cancelling and not self._shielded):
            self.wake()

    # -- the procedure --------------------------------------------------------------------

    async def _run(self) -> None:
        scope = self._scope
        for task in self._unfinished():
            self.accepted(task)
        scope._tell_state()
        while not scope._try_close():
            await self._pass_stages()
        self.report = DrainReport(
            **{state.value: tuple(entries) for state, entries in self._entries.items()},
            duration=self._loop.time() - self._began,
        )
        scope._tell_state(self.report)
        await self._tell(self.report)
        self.is_over = True
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()

    async def _pass_stages(self) -> None:
        """Go on from the stage in which the scope is, until nothing is left."""
        scope = self._scope
        if scope._state is ScopeState.DRAINING:
            await self._wait(self._is_idle, lambda: self._grace_end)
            if self._is_idle():
                return
            scope._state = ScopeState.CANCELLING
            scope._tell_state()
            self._settle_deferred()
            self._cancel(task for task in self._unfinished() if not task.config.shield)
        if scope._state is ScopeState.CANCELLING:
            # What is on its way from a thread may be shielded as well.
            await self._wait(
                lambda: not (self._shielded or scope._on_the_way), lambda: self._shield_end
            )
            if self._is_idle():
                return
            scope._state = ScopeState.ABANDONING
            scope._tell_state()
            self._cancel(self._unfinished())
        await self._wait(self._is_idle, lambda: math.inf)

    def _is_idle(self) -> bool:
        scope = self._scope
        return not (scope._tasks or scope._deferred or scope._on_the_way)

    def _unfinished(self) -> list[AnyTask]:
        return [*self._scope._tasks, *self._scope._deferred]

    async def _wait(self, over: Callable[[], bool], deadline: Callable[[], float]) -> None:
        """Wait until `over()` or `deadline()`; meanwhile settle, abandon, and log for whom."""
        next_log = self._loop.time() + LOG_INTERVAL
        while True:
            self._settle_deferred()
            self._abandon_overdue()
            now = self._loop.time()
            if over() or now >= deadline():
                return
            if now >= next_log:
                self._say_waiting(now)
                next_log += LOG_INTERVAL
            self._alarm = self._loop.create_future()
            stop_by = next(iter(self._stop_by.values()), math.inf)
            timer = self._loop.call_at(min(deadline(), next_log, stop_by), self.wake)
            await self._alarm
            timer.cancel()

    def wake(self) -> None:
        """Let the procedure look again."""
        if self._alarm is not None and not self._alarm.done():
            self._alarm.set_result(None)

    def _settle_deferred(self) -> None:
        """Of the tasks whose moment will not come: start what is shielded, cancel the rest."""
        scope = self._scope
        draining = scope._state is ScopeState.DRAINING
        for task, unit in list(scope._deferred.items()):
            # Its phase may come while the task that made the unit goes on.
            if unit.owner is None or unit.owner.done() or self.refuses(unit.owner):
                self._settle(task)
        for task, timer in list(scope._timers.items()):
            # What is due within half a millisecond has no time on uvloop: it comes at once.
            when = getattr(timer, "when", self._loop.time)()
            if not draining or when > self._grace_end:
                self._settle(task)

    def _settle(self, task: AnyTask) -> None:
        if task.done():
            return  # an observer of the end of one before it cancelled it
        if task.config.shield and not self.refuses(task):
            self._scope._start_now(task)
        else:
            task._finish(TaskState.CANCELLED)

    def _cancel(self, tasks: Iterable[AnyTask]) -> None:
        tasks = [task for task in tasks if task not in self._stop_by]
        # Those that wait for a slot first, or each running one that ends would start one.
        tasks.sort(key=lambda task: task._runner is not None)
        for task in tasks:
            if not task.done():  # else an observer of the end of one before it cancelled it
                task._cancel()
        # From now, as none has had its turn yet, and cancelling thousands takes its time. A
        # function in a thread is given up, and its stack logged, by its own task.
        stop_by = self._loop.time() + STOP_TIME + 0.25
        self._stop_by |= {task: stop_by for task in tasks if not task.done()}

    def _abandon_overdue(self) -> None:
        now = self._loop.time()
        for task, stop_by in list(self._stop_by.items()):
            if stop_by > now:
                return
            runner = task._runner
            # Else it has ended; a drain must not fail, whatever else does.
            if runner is not None:  # pragma: no branch
                say_abandoned(task, coroutine_stack(runner, without=OWN_FILES))
                abandon(runner)
                task._finish(TaskState.ABANDONED)

    # -- what is told ---------------------------------------------------------------------

    def _say_cancelled(self, report: DrainReport) -> None:
        """Name what did not run to its end: at WARNING, which Python prints by default."""
        if report.cancelled:
            message = "drain of scope '%s' cancelled %d tasks: %s%s"
            names = (self._scope.name, len(report.cancelled), *_named(report.cancelled))
            ids = [entry.id for entry in report.cancelled]
            say(logging.WARNING, message, *names, extra={"scope": names[0], "task_ids": ids})

    def _say_waiting(self, now: float) -> None:
        tasks = self._unfinished()
        names, more = _named(tasks)
        say(
            logging.WARNING,
            "drain of scope '%s' still waits for %d tasks after %.0f s (%s): %s%s",
            *(self._scope.name, len(tasks), now - self._began, self._scope._state.value),
            *(names, more),
            extra={"scope": self._scope.name, "task_ids": [task.id for task in tasks]},
        )

    async def _tell(self, report: DrainReport) -> None:
        if self._quiet and not any(self._entries.values()):
            return
        facts = {"scope": self._scope.name, "report": report}
        if self._on_drain is None:
            message = "drain of scope '%s' ended after %.2f s: %s"
            say(logging.INFO, message, self._scope.name, report.duration, report, extra=facts)
            self._say_cancelled(report)
            return
        problem = await self._give(self._on_drain, report)
        if problem is not None:
            message = "on_drain %r of scope '%s' failed on the report: %s"
            names = (self._on_drain, self._scope.name, report)
            say(logging.ERROR, message, *names, exc_info=problem, extra=facts)

    async def _give(self, on_drain: OnDrain, report: DrainReport) -> BaseException | None:
        """Call `on_drain`, which may be async, and may do whatever user code does."""
        try:
            answer = on_drain(report)
        except BaseException as error:
            return error
        if not inspect.isawaitable(answer):
            return None
        runner = asyncio.ensure_future(_awaiting(answer))
        hide(runner)
        await asyncio.wait((runner,), timeout=ON_DRAIN_TIME)
        if not runner.done():
            runner.cancel()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        if not runner.done():
            abandon(runner)
        return runner.result() if runner.done() and not runner.cancelled() else TimeoutError()


def _named(tasks: Sequence[AnyTask | DrainEntry]) -> tuple[str, str]:
    """The names of the first few, and how many there are beside them."""
    names = ", ".join(f"'{task.name}' ({task.id})" for task in tasks[:_NAMED])
    return names, f" and {len(tasks) - _NAMED} more" if len(tasks) > _NAMED else ""


async def _awaiting(answer: Awaitable[object]) -> BaseException | None:
    try:
        await answer
    except asyncio.CancelledError:
        raise
    except BaseException as error:
        return error
    return None
