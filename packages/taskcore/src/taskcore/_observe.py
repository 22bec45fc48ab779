"""Tell whoever wants to know what happens to a scope and its tasks. Unasked, it costs nothing.

Invariants:
    - Events are told on the scope's loop, in the order in which things happened, and each
      one to every observer before the next: what an observer brings about is told when it
      has returned.
    - Of each task `"scheduled"` is told first, then once `"started"` if its function
      begins, and last one of `"finished"`, `"skipped"` and `"abandoned"`, once.
    - An observer may cancel and schedule; what it raises is logged and harms nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar, cast

from taskcore._frozen import frozen, set_field
from taskcore._log import facts, say
from taskcore._state import FINAL, ScopeState, TaskState
from taskcore._task import AnyTask, Task

if TYPE_CHECKING:
    from taskcore._drain import DrainReport
    from taskcore._scope import TaskScope

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
"""Bounds for histograms of durations, in seconds: those of requests, and on to ten minutes."""

EventKind: TypeAlias = Literal[
    "scheduled", "started", "retried", "finished", "skipped", "abandoned"
]
"""What can happen to a task: see `TaskEvent`."""


@frozen(slots=True)
class TaskEvent:
    """One thing that happened to one task.

    Attributes:
        kind: `"scheduled"` (accepted), `"started"` (its function begins), `"retried"` (its
            `retry` begins a further attempt), `"finished"` (succeeded, failed or cancelled:
            see `task.state`), `"skipped"`, `"abandoned"`.
        task: The task, in the state that the event brought it to.
        time: When, on the clock of the scope's loop, in seconds.
        attempt: Which attempt begins, for `"retried"`: 2 for the first retry. Else `None`.
        duration: Seconds from the begin of its function to its end, for the last event of a
            task whose function began. Else `None`.
    """

    kind: EventKind
    task: Task[..., Any]
    time: float
    attempt: int | None = None
    duration: float | None = None

    # Three are made for each task, so by the fast way, which names the fields once more.
    def __init__(
        self,
        kind: EventKind,
        task: Task[..., Any],
        time: float,
        attempt: int | None = None,
        duration: float | None = None,
    ) -> None:
        """Made by the scope."""
        set_field(self, "kind", kind)
        set_field(self, "task", task)
        set_field(self, "time", time)
        set_field(self, "attempt", attempt)
        set_field(self, "duration", duration)

    @property
    def scope(self) -> TaskScope:
        """The scope of the task."""
        return cast("TaskScope", self.task._scope)


@frozen(slots=True)
class ScopeEvent:
    """One move in the life of a scope: it opened, or its drain came to another stage.

    Attributes:
        scope: The scope.
        state: The state that it came into: `OPEN`, `DRAINING`, `CANCELLING`, `ABANDONING` or
            `CLOSED`. A drain passes over the stages that have nothing to wait for.
        time: When, on the clock of the scope's loop, in seconds.
        report: What became of the tasks, for `CLOSED`. Else `None`.
    """

    scope: TaskScope
    state: ScopeState
    time: float
    report: DrainReport | None = None


_FINAL_EVENTS: dict[TaskState, EventKind] = {
    TaskState.SKIPPED: "skipped",
    TaskState.ABANDONED: "abandoned",
}

Observer: TypeAlias = Callable[[TaskEvent], object]
"""Called on the scope's loop for each event. It must not wait; what it raises is logged."""


class Instrument:
    """An observer that also hears of the scope, and of each task from inside its context.

    Derive from it and write the methods that you need. All are called on the scope's
    loop, and must not wait; what they raise is logged.

    Example:
        from taskcore import TaskScope
        from taskcore.spi import Instrument, ScopeEvent

        class Stages(Instrument):
            def on_scope(self, event: ScopeEvent) -> None:
                print(event.scope.name, event.state.value)

        scope = TaskScope(observers=[Stages()])
    """

    def __call__(self, event: TaskEvent) -> None:
        """Something happened to a task."""

    def on_enter(self, task: AnyTask) -> None:
        """A task that has its slot goes to work: before its limiter, its retry, its function.

        Called once, in the task's own context: context variables that are set here are
        seen by all that runs for it, in threads and in its error handler as well.

        Args:
            task: The task.
        """

    def on_scope(self, event: ScopeEvent) -> None:
        """The scope opened, or its drain came to another stage.

        Args:
            event: The scope, the state that it came into, and the report at the end.
        """


class Observed:
    """The side of a scope that its observers see, and what is counted for its statistics."""

    __slots__ = (
        "_ended_otherwise",
        "_instruments",
        "_observers",
        "_state",
        "_succeeded",
        "_untold",
    )
    _loop: asyncio.AbstractEventLoop
    _state: ScopeState

    def __init__(self, observers: tuple[Observer, ...]) -> None:
        self._observers = observers
        self._instruments = tuple(one for one in observers if isinstance(one, Instrument))
        self._untold: deque[TaskEvent | ScopeEvent] | None = None  # while one is told
        self._succeeded: int = 0
        self._ended_otherwise = dict.fromkeys(FINAL - {TaskState.SUCCEEDED}, 0)

    def _tell(self, kind: EventKind, task: AnyTask, attempt: int | None = None) -> None:
        """Tell the observers what happened to a task."""
        self._tell_in_order(TaskEvent(kind, task, self._loop.time(), attempt))

    def _tell_end(self, task: AnyTask) -> None:
        """Tell the observers that a task came into its final state."""
        kind = _FINAL_EVENTS.get(task._state, "finished")
        now = self._loop.time()
        self._tell_in_order(TaskEvent(kind, task, now, None, task._took()))

    def _tell_state(self, report: DrainReport | None = None) -> None:
        """Tell the instruments what state the scope came into."""
        if self._instruments:
            scope = cast("TaskScope", self)
            self._tell_in_order(ScopeEvent(scope, self._state, self._loop.time(), report))

    def _enter(self, task: AnyTask) -> None:
        """Let the instruments into the context of a task; called in it."""
        for instrument in self._instruments:
            _call(instrument.on_enter, task, "enter", task)

    def _tell_in_order(self, event: TaskEvent | ScopeEvent) -> None:
        if self._untold is not None:  # an observer of the event before brought it about
            self._untold.append(event)
            return
        self._untold = deque((event,))
        try:
            while self._untold:
                self._tell_one(self._untold.popleft())
        finally:
            self._untold = None

    def _tell_one(self, event: TaskEvent | ScopeEvent) -> None:
        if isinstance(event, TaskEvent):
            tell(self._observers, event)
        else:
            for instrument in self._instruments:
                _call(instrument.on_scope, event, event.state.value, event.scope)


def tell(observers: Iterable[Observer], event: TaskEvent) -> None:
    """Give `event` to each observer; one that raises is logged and harms nothing."""
    for observer in observers:
        _call(observer, event, event.kind, event.task)


_T = TypeVar("_T")


def _call(observer: Callable[[_T], object], news: _T, kind: str, of: AnyTask | TaskScope) -> None:
    try:
        observer(news)
    except BaseException:
        if isinstance(of, Task):
            message = "observer %r failed on '%s' of task '%s' (id %d)"
            subject: tuple[object, ...] = (of.name, of.id)
            extra = facts(of)
        else:
            message = "observer %r failed on '%s' of scope '%s'"
            subject = (of.name,)
            extra = {"scope": of.name}
        say(logging.ERROR, message, observer, kind, *subject, exc_info=True, extra=extra)
