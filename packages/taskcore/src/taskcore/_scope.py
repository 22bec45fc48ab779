"""`TaskScope`: the life of a scope, from `async with` to the end of its drain.

It composes the other files: which tasks there are (`_intake`), units of work
(`_phase`), series (`_every`), and shutdown (`_drain`).

Invariant: a scope does not end before its tasks do, whoever is cancelled meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
from asyncio import get_running_loop
from collections.abc import Callable, Collection, Mapping
from contextvars import Token
from functools import cache
from types import TracebackType
from typing import Any, TypedDict, cast

from taskcore._children import note_children
from taskcore._config import TaskConfig, check_count, check_lanes, check_seconds
from taskcore._drain import Drain, DrainReport, OnDrain
from taskcore._every import Series
from taskcore._intake import Intake, current_scope_var
from taskcore._lane import Lane
from taskcore._observe import Observer
from taskcore._phase import Lifecycle
from taskcore._run import current_root
from taskcore._state import ScopeState
from taskcore._statistics import ScopeStatistics, take_statistics
from taskcore.errors import (
    ConfigTypeError,
    ConfigValueError,
    NoCurrentScopeError,
    ScopeClosedError,
)

GRACE_PERIOD = 5.0
SHIELD_TIMEOUT = 20.0
"""Seconds. With `STOP_TIME` they fit into the 30 s that Kubernetes gives a pod by default."""
THREADS = 32
"""Threads of a scope at the most; the bound that `concurrent.futures` has on large machines."""

_numbers = itertools.count(1)
UNSET: Any = object()


@cache
def _processors() -> int:
    """How many there are. Kept, as asking the system is a fifth of what a scope costs."""
    return os.cpu_count() or 1


class ScopeOptions(TypedDict, total=False):
    """The options of `TaskScope`, for adapters that pass them on."""

    limit: int | None
    backlog: int | None
    grace_period: float | None
    shield_timeout: float | None
    config: TaskConfig | None
    name: str | None
    threads: int
    processes: int | None
    lanes: Mapping[str, int] | None
    observers: Collection[Observer]
    on_drain: OnDrain | None


class TaskScope(Intake):
    """Owns the tasks scheduled on it, and does not end before they do.

    Used as `async with TaskScope() as scope:`. A normal end of the block waits for every
    task, for those that they schedule meanwhile, and for every series (see `every`) until
    it is cancelled. An end by an exception or a cancellation drains: tasks get
    `grace_period` seconds, then they are cancelled; shielded ones get `shield_timeout`
    more. Nothing that a task raises ends the block.

    Args:
        limit: Most tasks that run at once; `None` is no limit.
        backlog: Most tasks that wait for a slot under the limit; `None` is no limit.
        grace_period: Seconds that a drain waits before it cancels; `None` is no limit.
        shield_timeout: Seconds more for shielded tasks; `None` is no limit.
        config: The defaults of every task.
        name: What logs call the scope.
        threads: Most threads for plain functions.
        processes: Most worker processes for `run_in="process"`; `None` is one per processor.
        lanes: Names and limits of lanes: tasks with `lane="mail"` count against the limit
            of that lane alone. Each lane has a backlog of its own, as long as `backlog`.
        observers: Called on the loop with a `TaskEvent` for what happens to tasks. A
            `taskcore.spi.Instrument` among them hears of the scope's states as well.
        on_drain: Called with the `DrainReport` when a drain has ended, sync or async;
            without it, a summary is logged. A normal end of the block that has nothing left
            does neither.

    Raises:
        ConfigError: An option makes no sense.

    Example:
        async with TaskScope(limit=50) as scope:
            task = scope.schedule(fetch, url, retries=3)
            page = await task

    Source:
        Defaults and order of steps: docs/design.md.
    """

    def __init__(
        self,
        *,
        limit: int | None = None,
        backlog: int | None = None,
        grace_period: float | None = GRACE_PERIOD,
        shield_timeout: float | None = SHIELD_TIMEOUT,
        config: TaskConfig | None = None,
        name: str | None = None,
        threads: int = THREADS,
        processes: int | None = None,
        lanes: Mapping[str, int] | None = None,
        observers: Collection[Observer] = (),
        on_drain: OnDrain | None = None,
    ) -> None:
        """Make a scope; it opens at `async with`."""
        check_lanes(lanes)
        check_count("limit", limit, least=1, none="no limit")
        check_count("backlog", backlog, least=0, none="no limit")
        check_count("threads", threads, least=1)
        check_count("processes", processes, least=1, none="one per processor")
        check_seconds("grace_period", grace_period, none="None for no limit")
        check_seconds("shield_timeout", shield_timeout, none="None for no limit")
        if config is not None and not isinstance(config, TaskConfig):
            raise ConfigTypeError(f"config={config!r} is no TaskConfig; pass TaskConfig(...)")
        if backlog is not None and limit is None and not lanes:
            raise ConfigValueError(
                f"backlog={backlog} without a limit: no task would ever wait; pass limit=... too"
            )
        if not isinstance(observers, Collection):
            raise ConfigTypeError(f"observers={observers!r} is no list; pass [function, ...]")
        observers = tuple(observers)
        for observer in observers:
            if not callable(observer):
                raise ConfigTypeError(
                    f"observers: {observer!r} cannot be called; pass functions(event)"
                )
        if on_drain is not None and not callable(on_drain):
            raise ConfigTypeError(
                f"on_drain={on_drain!r} cannot be called; pass a function(report)"
            )
        self._named = bool(name)  # else the name tells nothing: instruments leave it out
        name = name or f"scope-{next(_numbers)}"
        super().__init__(
            config or TaskConfig(),
            name,
            None if limit is None else Lane(None, limit, backlog, name),
            {lane: Lane(lane, most, backlog, name) for lane, most in (lanes or {}).items()},
            observers,
            threads,
            processes or _processors(),
        )
        self._grace_period = grace_period
        self._shield_timeout = shield_timeout
        self._on_drain = on_drain
        self._series: dict[Series, None] = {}
        self._token: Token[Intake | None]  # from the moment when it is entered

    # -- what it is ---------------------------------------------------------------------

    @property
    def state(self) -> ScopeState:
        """Whether it is open, draining, or closed."""
        return self._state

    def __repr__(self) -> str:
        """Name, state and how many tasks it has."""
        return f"<TaskScope '{self._name}' {self._state.value}, {len(self._tasks)} tasks>"

    def statistics(self) -> ScopeStatistics:
        """Count what it has: tasks by state, lanes, threads and processes.

        May be called from any thread, and at any time of the scope's life. On the loop the
        figures are of one moment; in a thread, tasks go on while they are counted. Takes
        time in proportion to the tasks that have not ended.

        Returns:
            A snapshot, which later events do not change.
        """
        return take_statistics(self)

    # -- its life -----------------------------------------------------------------------

    async def __aenter__(self) -> TaskScope:
        """Open it, and make it the current scope.

        Raises:
            ScopeClosedError: It has been entered before; make a new one.
            ConfigValueError: Its config names a lane that it does not have.
        """
        if self._state is not ScopeState.NEW:
            raise ScopeClosedError(
                f"scope '{self._name}' was entered before; a scope has one life, "
                "so make a new TaskScope(...)"
            )
        self._find_lane(self.config.lane)
        self._loop = get_running_loop()
        self._children = note_children(self._loop)
        self._host = current_root()
        self._state = ScopeState.OPEN
        self._is_plain = self._is_undisturbed()
        self._token = self._make_current()
        self._tell_state()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Wait for every task and series after a normal end, drain after any other.

        Cancellation:
            A cancellation while it waits makes it drain. One while it drains is kept until
            the drain has ended, and then raised: the block never ends before its tasks.
        """
        # It may be left in another context than entered, as fixtures and generators do.
        with contextlib.suppress(ValueError):
            current_scope_var.reset(self._token)
        if error is not None:
            await self.drain_uncancelled()
            return
        try:
            await self._wait(lambda: self._tasks or self._on_the_way or self._series)
        except asyncio.CancelledError:
            await self.drain_uncancelled()
            raise
        await self.drain_uncancelled(quiet=True)

    async def wait_idle(self) -> None:
        """Wait until nothing runs, waits for a slot, or waits for its delay.

        Tasks deferred to a phase that has not come are not waited for, nor is the next run
        of a series.

        Raises:
            WrongLoopError: Called on another event loop than the scope's.
            RuntimeError: Called by a task of this scope, which would wait for itself.

        Cancellation:
            Safe: nothing is touched.
        """
        if self._is_here():
            self._check_not_inside("wait until idle")
        await self._wait(lambda: self._tasks or self._on_the_way)

    def _check_not_inside(self, what: str) -> None:
        """Refuse what a task of this scope would wait for itself with."""
        runner = current_root()
        if runner is not None and runner.task in self._tasks:
            raise RuntimeError(
                f"task '{runner.task.name}' cannot {what}: scope '{self._name}' would wait "
                "for it; do that outside of its tasks, or 'await' the handles of others"
            )

    async def _wait(self, busy: Callable[[], object]) -> None:
        """Wait until `busy()`, which is asked when tasks or series end, is false."""
        if not self._is_here():
            raise self._wrong_loop("wait until idle")
        while busy():
            waiter = self._loop.create_future()
            self._idle_waiters.append(waiter)
            await waiter

    async def wait_for_room(self, lane: str | None = None) -> None:
        """Wait until `schedule`, called before the next `await`, would not be refused.

        Lets a script feed a million items through `limit=50, backlog=100` in constant
        memory. Those who wait get room first in, first out.

        Args:
            lane: The lane in which room is wanted; `None` is the scope's own limit.

        Raises:
            ConfigValueError: The scope has no such lane.

        Cancellation:
            Safe: the place in the line is given up.
        """
        if not self._is_here():
            raise self._wrong_loop("wait for room")
        found = self._find_lane(lane)
        if found is not None:
            await found.wait_for_room()

    async def drain(
        self, *, grace_period: float | None = UNSET, shield_timeout: float | None = UNSET
    ) -> DrainReport:
        """Close intake, then wait until every accepted task has ended.

        Deferred tasks whose phase will not come are cancelled, shielded ones among them
        started. After the grace period unshielded tasks are cancelled; after the shield
        timeout everything is. What does not stop within a second is abandoned and logged.
        A second call joins the first, and may only shorten its deadlines.

        Args:
            grace_period: Seconds until unshielded tasks are cancelled; `None` is no limit.
                Default: the scope's.
            shield_timeout: Seconds from then until shielded ones are; `None` is no limit.
                Default: the scope's.

        Returns:
            What became of each task that had not finished at the call.

        Raises:
            ScopeClosedError: The scope was not entered yet.
            ConfigError: A length is negative, NaN, or no number.
            WrongLoopError: Called on another event loop than the scope's.
            RuntimeError: Called by a task of this scope, which would wait for itself.

        Cancellation:
            Safe: the drain goes on, intake stays closed, and a second call resumes the wait.

        Source:
            Order of steps and defaults: docs/design.md.
        """
        grace = self._grace_period if grace_period is UNSET else grace_period
        shield = self._shield_timeout if shield_timeout is UNSET else shield_timeout
        check_seconds("grace_period", grace, none="None for no limit")
        check_seconds("shield_timeout", shield, none="None for no limit")
        if self._state is ScopeState.NEW:
            raise ScopeClosedError(
                f"cannot drain scope '{self._name}': it was not entered; "
                "write 'async with TaskScope() as scope:'"
            )
        if not self._is_here():
            raise self._wrong_loop("drain")
        self._check_not_inside("drain")
        return await self._begin_drain(grace, shield).wait()

    async def drain_uncancelled(
        self,
        *,
        grace_period: float | None = UNSET,
        shield_timeout: float | None = UNSET,
        quiet: bool = False,
    ) -> DrainReport:
        """Drain like `drain`, and do not return before it has ended, cancelled or not.

        For whoever owns what the tasks use, and would close it too early: adapters.

        Args:
            grace_period: As for `drain`.
            shield_timeout: As for `drain`.
            quiet: Tell nobody of a drain that had nothing to wait for.

        Returns:
            As `drain`.

        Cancellation:
            Kept until the drain has ended, and then raised.
        """
        cancelled: asyncio.CancelledError | None = None
        grace = self._grace_period if grace_period is UNSET else grace_period
        shield = self._shield_timeout if shield_timeout is UNSET else shield_timeout
        drain = self._begin_drain(grace, shield, quiet=quiet)
        while not drain.is_over:
            try:
                await drain.wait_over()
            except asyncio.CancelledError as exc:
                cancelled = exc
        if cancelled is not None:
            try:
                raise cancelled
            finally:
                del cancelled
        return await drain.wait()

    def _make_current(self) -> Token[Intake | None]:
        """Make it the scope of the context, until the token is used."""
        return current_scope_var.set(self)

    def _begin_drain(
        self, grace: float | None, shield: float | None, *, quiet: bool = False
    ) -> Drain:
        if self._drain is None:
            self._state = ScopeState.DRAINING
            self._is_plain = False
            self._watched = True
            for series in list(self._series):
                series._end()
            self._drain = Drain(self, grace, shield, self._on_drain, quiet)
        else:
            self._drain.shorten(grace, shield)
        return self._drain

    def _start_drain(self) -> None:
        self._begin_drain(self._grace_period, self._shield_timeout)

    # -- units of work ------------------------------------------------------------------

    def lifecycle(self, *phases: str, config: TaskConfig | None = None) -> Lifecycle:
        """A unit of work with these phases, in order, for `async with`.

        Args:
            *phases: The names of its moments, such as `"stored", "answered"`.
            config: Defaults of the unit's tasks, over those of the scope.

        Raises:
            ConfigError: No phase, a name twice, or one that is no string.
            ScopeClosedError: The scope takes no tasks.
        """
        if not phases or len(set(phases)) < len(phases):
            raise ConfigValueError(
                f"phases {phases!r} make no order; "
                "write scope.lifecycle('first', 'second') with at least one name, each once"
            )
        for phase in phases:
            if not isinstance(phase, str) or not phase:
                raise ConfigTypeError(f"phase {phase!r} is no name; pass its name, a string")
        if self._state is not ScopeState.OPEN:
            self._check_intake("a unit of work")
        runner = current_root() if self._is_here() else None
        owner = runner.task if runner is not None and runner.task in self._tasks else None
        return Lifecycle(self, phases, self.config.merge(config) if config else self.config, owner)


def current_scope() -> TaskScope:
    """The scope of the running task, of the request, or of the lifespan.

    Inside an `async with TaskScope()` it is that one.

    Raises:
        NoCurrentScopeError: No scope is in reach.
    """
    scope = current_scope_var.get()
    if scope is None:
        raise NoCurrentScopeError(
            "there is no current scope: open one with 'async with TaskScope() as scope:', or "
            "call current_scope() in a task, a request or a lifespan"
        )
    return cast("TaskScope", scope)
