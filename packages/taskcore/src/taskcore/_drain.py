"""Shutdown of a scope: close intake, wait, cancel, abandon, report.

The stages, each entered once, in this order, any of them left early when nothing is
left to wait for:

    draining     Intake is closed. Everything accepted goes on, until the grace period
                 ends.
    cancelling   Unshielded tasks have been cancelled; shielded ones go on, until the
                 shield timeout ends.
    abandoning   Everything has been cancelled; what has not stopped after `STOP_TIME`
                 is abandoned.
    closed       Nothing is left, and the report is complete.

Invariants:
    - A drain runs in an asyncio task of its own, which nobody can cancel. Whoever
      awaits it may be cancelled; the drain goes on.
    - It ends within grace period + shield timeout + `STOP_TIME`, whatever tasks do.
    - Every task that had not finished when it began, or was accepted since, is in the
      report exactly once.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeAlias

from taskcore._intake import Intake, ScopeState
from taskcore._run import STOP_TIME, coroutine_stack, log_abandoned
from taskcore._shield import abandon, hide
from taskcore._task import FINAL, AnyTask, TaskState

logger = logging.getLogger("taskcore")

LOG_INTERVAL = 5.0
"""Seconds between two lines that name what a drain still waits for."""
ON_DRAIN_TIME = 0.5
"""Seconds that an async `on_drain` may take, so that the drain keeps its bound."""
_NAMED = 10  # tasks that such a line names at the most


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
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
        self._scope = scope
        self._loop = scope._loop
        self._began = self._loop.time()
        self._grace_end, self._shield_end = self._deadlines(grace_period, shield_timeout)
        self._entries: dict[TaskState, list[DrainEntry]] = {state: [] for state in FINAL}
        # A dict and no count, since tasks arrive from any thread.
        self._shielded: dict[AnyTask, None] = {}
        self._on_drain = on_drain
        self._quiet = quiet
        self._alarm: asyncio.Future[None] | None = None
        self._waiters: list[asyncio.Future[None]] = []
        self.runner = asyncio.Task(self._run(), loop=self._loop, name=f"drain of {scope.name}")
        hide(self.runner)

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
        self._wake()

    async def wait(self) -> DrainReport:
        """Wait for the report; cancelling the caller leaves the drain as it is."""
        while self.report is None:
            waiter = self._loop.create_future()
            self._waiters.append(waiter)
            await waiter
        return self.report

    def refuses(self, task: AnyTask) -> bool:
        """Whether it is too late for `task` to start."""
        state = self._scope._state
        return state is ScopeState.ABANDONING or (
            state is ScopeState.CANCELLING and not task.config.shield
        )

    def accepted(self, task: AnyTask) -> None:
        """A task was accepted during the drain."""
        if task.config.shield:
            self._shielded[task] = None

    def forget(self, task: AnyTask) -> None:
        """A task was refused after all."""
        self._shielded.pop(task, None)

    def ended(self, task: AnyTask) -> None:
        """A task came into a final state."""
        took = 0.0 if task._began is None else self._loop.time() - task._began
        self._entries[task._state].append(DrainEntry(task.name, task.id, took))
        self._shielded.pop(task, None)
        cancelling = self._scope._state is ScopeState.CANCELLING
        if not self._unfinished() or (cancelling and not self._shielded):
            self._wake()

    # -- the procedure --------------------------------------------------------------------

    async def _run(self) -> None:
        scope = self._scope
        for task in self._unfinished_tasks():
            self.accepted(task)
        self._settle_deferred()
        await self._wait(lambda: not self._unfinished(), lambda: self._grace_end)

        if self._unfinished():
            scope._state = ScopeState.CANCELLING
            self._settle_deferred()
            self._cancel(task for task in self._unfinished_tasks() if not task.config.shield)
            await self._wait(lambda: not self._shielded, lambda: self._shield_end)

        if self._unfinished():
            scope._state = ScopeState.ABANDONING
            self._cancel(list(self._unfinished_tasks()))
            # A function in a thread is given up, and its stack logged, by its own task.
            deadline = self._loop.time() + STOP_TIME + 0.25
            await self._wait(lambda: not self._unfinished(), lambda: deadline)
            for task in self._unfinished_tasks():
                self._abandon(task)

        await scope._close()
        report = self._make_report()
        await self._tell(report)
        self.report = report
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()

    def _unfinished(self) -> bool:
        return bool(self._scope._tasks or self._scope._deferred)

    def _unfinished_tasks(self) -> list[AnyTask]:
        return [*self._scope._tasks, *self._scope._deferred]

    def _settle_deferred(self) -> None:
        """Start what is shielded, and cancel the rest, of what would come too late."""
        scope = self._scope
        for task in list(scope._deferred):
            unit = scope._deferred.get(task)
            if unit is None or (unit.is_live and scope._state is ScopeState.DRAINING):
                continue
            self._settle(task)
        for task, timer in list(scope._timers.items()):
            if timer.when() > self._grace_end or scope._state is not ScopeState.DRAINING:
                self._settle(task)

    def _settle(self, task: AnyTask) -> None:
        if task.config.shield:
            self._scope._start_deferred(task, now=True)
        else:
            task._finish(TaskState.CANCELLED)

    def _cancel(self, tasks: Iterable[AnyTask]) -> None:
        # Those that wait for a slot first, or each running one that ends would start one.
        tasks = list(tasks)
        for task in tasks:
            if task._runner is None:
                task._cancel()
        for task in tasks:
            if task._runner is not None:
                task._cancel()

    def _abandon(self, task: AnyTask) -> None:
        runner = task._runner
        if runner is not None:
            log_abandoned(task, coroutine_stack(runner))
            abandon(runner)
        task._finish(TaskState.ABANDONED)

    async def _wait(self, over: Callable[[], bool], deadline: Callable[[], float]) -> None:
        """Wait until `over()` or until `deadline()`; every few seconds, log for whom."""
        next_log = self._loop.time() + LOG_INTERVAL
        while not over():
            now = self._loop.time()
            if now >= deadline():
                return
            if now >= next_log:
                self._log_wait(now)
                next_log += LOG_INTERVAL
            self._alarm = self._loop.create_future()
            timer = self._loop.call_at(min(deadline(), next_log), self._wake)
            await self._alarm
            timer.cancel()

    def _wake(self) -> None:
        if self._alarm is not None and not self._alarm.done():
            self._alarm.set_result(None)

    # -- what is told ---------------------------------------------------------------------

    def _log_wait(self, now: float) -> None:
        tasks = self._unfinished_tasks()
        names = ", ".join(f"'{task.name}' ({task.id})" for task in tasks[:_NAMED])
        more = f" and {len(tasks) - _NAMED} more" if len(tasks) > _NAMED else ""
        logger.warning(
            "drain of scope '%s' still waits for %d tasks after %.0f s (%s): %s%s",
            *(self._scope.name, len(tasks), now - self._began, self._scope._state.value),
            *(names, more),
            extra={"scope": self._scope.name, "task_ids": [task.id for task in tasks]},
        )

    def _make_report(self) -> DrainReport:
        return DrainReport(
            **{state.value: tuple(entries) for state, entries in self._entries.items()},
            duration=self._loop.time() - self._began,
        )

    async def _tell(self, report: DrainReport) -> None:
        if self._quiet and not any(self._entries.values()):
            return
        if self._on_drain is None:
            logger.info(
                "drain of scope '%s' ended after %.2f s: %s",
                *(self._scope.name, report.duration, report),
                extra={"scope": self._scope.name, "report": report},
            )
            return
        try:
            async with asyncio.timeout(ON_DRAIN_TIME):
                answer = self._on_drain(report)
                if inspect.isawaitable(answer):
                    await answer
        except BaseException:
            logger.exception(
                "on_drain %r of scope '%s' failed on the report: %s",
                *(self._on_drain, self._scope.name, report),
                extra={"scope": self._scope.name, "report": report},
            )
