"""`every`: a call that a scope repeats at a fixed rate, the series of its runs.

A series has ticks: the first when it begins, then one each interval, on a grid that
nothing moves. Each run is an ordinary task of the scope; the series itself is no task, but
one timer on the loop.

    state        may become
    on its way   going, over   A thread has begun it, and the loop has not heard of it.
    going        over          At each tick: set the timer for the next one, then begin a
                               run, or leave it out.
    over                       It was cancelled, or the scope takes no tasks any more.

Invariants:
    - The timer for the next tick is set before a run begins, so nothing that becomes of
      a run, or of the attempt to begin one, ends the series or changes its context.
    - Tick n is due at first + n * interval (+ jitter, anew for each n), and n only grows:
      no drift, and no tick twice. Ticks that a late loop has missed are left out.
    - A series that goes is in the scope's `_series`; one that is over holds no timer, and
      begins no run. It is no reason for a drain to wait.
    - It holds no run: the scope does, until the run ends.
"""

from __future__ import annotations

import importlib
import logging
from asyncio import TimerHandle
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ParamSpec, Unpack, cast
from weakref import ref

from taskcore._call import name_of
from taskcore._config import LONGEST, TaskConfig, TaskOptions
from taskcore._frozen import frozen, replace
from taskcore._log import say
from taskcore._scheduler import Configured, Scheduler, configured
from taskcore._state import ScopeState
from taskcore._task import AnyTask
from taskcore.errors import (
    ConfigTypeError,
    ConfigValueError,
    InvalidCallError,
    ScopeClosedError,
    TaskcoreError,
)

if TYPE_CHECKING:
    from taskcore._scope import TaskScope

P = ParamSpec("P")

SHORTEST = 0.001
"""Seconds between two ticks at least: the clock of uvloop counts milliseconds."""


@frozen(slots=True)
class Interval:
    """How a series repeats, where the seconds alone do not say it all.

    Attributes:
        seconds: Seconds between two ticks, at least 0.001.
        jitter: Seconds by which a run may begin later than its tick: a random part of
            them, for each run anew. From 0, the default, to `seconds`. It keeps many
            processes that began together from doing the same thing at the same time.
        overlap: Whether a run begins although the one before it still goes on. By default
            it does not, and is left out. With it, a `limit` or `lane` bounds how many go on
            at once.

    Raises:
        ConfigTypeError: A value has the wrong type.
        ConfigValueError: A value is out of its range.

    Example:
        from taskcore import Interval, TaskScope

        async with TaskScope() as scope:
            series = scope.every(Interval(60, jitter=5), fetch, url)
            series.cancel()
    """

    seconds: float
    jitter: float = 0.0
    overlap: bool = False

    def __post_init__(self) -> None:
        _check_between("seconds", self.seconds, SHORTEST, LONGEST)
        _check_between("jitter", self.jitter, 0, self.seconds)
        if not isinstance(self.overlap, bool):
            raise ConfigTypeError(f"overlap={self.overlap!r} is not a bool; pass True or False")


def _check_between(option: str, value: float, least: float, most: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigTypeError(
            f"{option}={value!r} is not a number; pass seconds, as in every(60, function) or "
            "every(Interval(60, jitter=5), function)"
        )
    if not least <= value <= most:
        raise ConfigValueError(
            f"{option}={value!r} is out of range; pass seconds from {least} to {most}"
        )


class Series:
    """The handle of what `every` began: to end it, and to see the run that goes on."""

    __slots__ = (
        "__weakref__",
        "_args",
        "_config",
        "_count",
        "_due",
        "_first",
        "_func",
        "_interval",
        "_is_over",
        "_kwargs",
        "_run",
        "_scope",
        "_timer",
    )

    def __init__(
        self,
        scope: TaskScope,
        interval: Interval,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        config: TaskConfig,
    ) -> None:
        """Made by the scope; users call `every`."""
        self._scope = scope
        self._interval = interval
        self._func = func
        self._args = args
        self._kwargs = kwargs
        self._config = config
        self._first = self._due = 0.0  # on the loop's clock
        self._count = 0  # of the next tick; the first is 0
        self._timer: TimerHandle | None = None
        self._run: ref[AnyTask] | None = None
        self._is_over = False

    # -- what it is ---------------------------------------------------------------------

    @property
    def name(self) -> str:
        """What its runs are called: the name that was set, or that of the function."""
        return self._config.name or name_of(self._func)

    @property
    def task(self) -> AnyTask | None:
        """The run that goes on, or waits for a slot: the latest one, if several do.

        `None` between two runs. An observer hears of every run and of its outcome.
        """
        run = self._run() if self._run is not None else None
        return None if run is None or run.done() else run

    @property
    def is_over(self) -> bool:
        """Whether no further run will begin. A last one may still go on: see `task`."""
        return self._is_over

    def __repr__(self) -> str:
        """Name, interval and whether it is over; never the arguments."""
        state = "over" if self._is_over else "going"
        return f"<Series '{self.name}' every {self._interval.seconds} s, {state}>"

    # -- moves --------------------------------------------------------------------------

    def cancel(self) -> bool:
        """End the series: no further run begins. May be called from any thread.

        A run that goes on is left alone; `series.task` is its handle, and has a `cancel()`
        of its own, after which the series goes on.

        Returns:
            False if it was over already.
        """
        if self._is_over:
            return False
        self._is_over = True
        self._scope._on_loop(self._end)
        return True

    def _arrive(self) -> None:
        """Begin on the scope's loop, unless the scope drains by now, or it was cancelled."""
        if self._is_over or self._scope._state is not ScopeState.OPEN:
            self._is_over = True
            return
        self._scope._series[self] = None
        now = self._scope._loop.time()
        self._first = now + (self._config.delay or 0.0)
        # The delay is that of the whole series: no run has one of its own.
        self._config = replace(self._config, delay=None)
        self._set_due()
        if self._due > now:
            self._set_timer()
        else:
            self._tick()

    def _end(self) -> None:
        """Be over, on the scope's loop. What is done twice, or before it began, is harmless."""
        self._is_over = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._scope._series.pop(self, None)
        self._scope._wake_idle_waiters()

    def _set_due(self) -> None:
        tick = self._first + self._count * self._interval.seconds
        self._due = tick + _random_part(self._interval.jitter)

    def _set_timer(self) -> None:
        # Its context is a copy of ours, that of `every`, which no run has had yet.
        self._timer = self._scope._loop.call_at(self._due, self._tick)

    def _tick(self) -> None:
        """A tick has come: set the timer for the next one, then see to the run of this one."""
        if self._is_over:
            return  # cancelled in a thread, and the loop has not heard of it
        # A timer may be early, by the rounding of its loop.
        late = max(0.0, self._scope._loop.time() - self._due)
        self._count += 1 + int(late / self._interval.seconds)
        self._set_due()
        self._set_timer()
        self._begin_run()

    def _begin_run(self) -> None:
        before = self.task
        if before is not None and not self._interval.overlap:
            message = "series '%s' left out a run: the one before (id %d) still goes on"
            say(logging.DEBUG, message, self.name, before.id, extra=self._facts())
            return
        try:
            run = self._scope._accept(self._func, self._args, self._kwargs, self._config)
        except TaskcoreError as error:  # the backlog is full, above all
            message = "series '%s' left out a run: %s"
            say(logging.WARNING, message, self.name, error, extra=self._facts())
        else:
            self._run = ref(run)

    def _facts(self) -> dict[str, object]:
        return {
            "task_name": self.name,
            "task_function": name_of(self._func),
            "scope": self._scope.name,
        }


def _random_part(seconds: float) -> float:
    if not seconds:
        return 0.0
    # Not imported above: it would cost most programs something, and few need it (promise C4).
    part: float = importlib.import_module("random").uniform(0.0, seconds)
    return part


class ScopeScheduler(Scheduler):
    """A scheduler that lasts as long as a scope, so that it can repeat a call as well."""

    __slots__ = ()

    def every(
        self,
        interval: float | Interval,
        func: Callable[P, object],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Series:
        """Run a call of `func` at once, and again after each interval, without drift.

        Each run is a task of its own, with the options, limits and error handling of any
        other. A run that fails does not end the series. While one goes on, no other begins
        unless the interval says so, and ticks that passed meanwhile are left out; so is
        a run for which the backlog has no room, with a line in the log.

        A series ends by its `cancel()`, or when the scope begins to drain; a run that goes
        on then is drained like any task. It keeps the block of the scope open until it
        ends, while `wait_idle` waits for runs alone. May be called from any thread that
        runs no event loop of its own.

        Args:
            interval: Seconds between two ticks, at least 0.001; or an `Interval`, for
                jitter and overlap.
            func: A function, as for `schedule`.
            *args: Positional arguments of `func`.
            **kwargs: Keyword arguments of `func`.

        Returns:
            The handle of the series. It may be dropped: the scope holds the series.

        Raises:
            InvalidCallError: `func` cannot be called with these arguments.
            ConfigError: The interval makes no sense, or the settings do not fit.
            ScopeClosedError: The scope is draining or has ended.
            WrongLoopError: Called on another event loop than the scope's.

        Example:
            from taskcore import TaskScope

            async with TaskScope() as scope:
                now_and_each_minute = scope.every(60, fetch, url, retries=3)
                in_an_hour = scope.task(name="later", delay=3600).every(60, fetch, url)
                now_and_each_minute.cancel()
                in_an_hour.cancel()

        Source:
            Why the first run is at once, and the grid: docs/design.md.
        """
        if not isinstance(interval, Interval):
            interval = Interval(interval)
        scope = cast("TaskScope", self._intake)
        _check(scope, func, args, kwargs, self.config)
        series = Series(scope, interval, func, args, kwargs, self.config)
        if scope._is_here():
            series._arrive()
        elif not scope._send(series._arrive):
            raise scope._closed(f"'{series.name}'")
        return series

    def task(self, **options: Unpack[TaskOptions]) -> ConfiguredScope:
        """Set options for what is scheduled next: `scope.task(shield=True).schedule(save)`.

        Args:
            **options: Those of `TaskConfig`; what is left out keeps its default. In a
                series, `delay` is the time until its first run.

        Returns:
            A scheduler with these options. It can be kept, used often, and refined.

        Raises:
            ConfigError: An option makes no sense.
        """
        return configured(ConfiguredScope, self._intake, self._refine(options), None, 0)


class ConfiguredScope(ScopeScheduler, Configured):
    """A scope with options of its own; made by `task`."""

    __slots__ = ()


def _check(
    scope: TaskScope,
    func: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    config: TaskConfig,
) -> None:
    """Refuse what each run would be refused for."""
    name = name_of(func)
    scope._check_intake(f"'{name}'")
    if scope._state is not ScopeState.OPEN:  # a shielded task that is drained may still schedule
        raise ScopeClosedError(
            f"cannot repeat '{name}': scope '{scope.name}' is {scope._state.value}, and a series "
            "would end at once; schedule one run, or begin the series before shutdown"
        )
    try:
        scope._check_call(func, args, kwargs, config)
    except InvalidCallError as error:
        error.add_note("write every(60, function, argument, ...): the interval comes first")
        raise
    scope._find_lane(config.lane)
