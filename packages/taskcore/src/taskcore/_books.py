"""Which tasks a scope has: how one that was accepted starts, and how it is let go of.

Invariants:
    - An accepted task is in `_tasks`, or in `_deferred` while it waits for its phase,
      until it ends, and then in neither: a running task is strongly held, a finished
      one not at all.
    - The books, phases and ends of tasks are for the scope's loop alone. `_on_the_way` and
      `_is_plain` are all that other threads change, under the lock `_door`.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from abc import abstractmethod
from asyncio import get_running_loop
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

from taskcore._attempts import load_processes
from taskcore._children import ChildNotes
from taskcore._lane import Lane
from taskcore._observe import Observed, Observer
from taskcore._run import EAGER, Runner, begin
from taskcore._state import ScopeState, TaskState
from taskcore._task import AnyTask
from taskcore._threads import ThreadPool
from taskcore.errors import ConfigValueError

if TYPE_CHECKING:
    from taskcore._drain import Drain
    from taskcore._phase import Lifecycle

_DEFERRED, _WAITING, _SCHEDULED = TaskState.DEFERRED, TaskState.WAITING, TaskState.SCHEDULED
_RUNNING, _SUCCEEDED, _ABANDONED = TaskState.RUNNING, TaskState.SUCCEEDED, TaskState.ABANDONED


class Books(Observed):
    """The tasks of one scope, from their start to their end."""

    __slots__ = (
        "_children",
        "_deferred",
        "_door",
        "_drain",
        "_host",
        "_idle_waiters",
        "_is_letting_in",
        "_is_plain",
        "_lane",
        "_lanes",
        "_loop",
        "_name",
        "_on_the_way",
        "_pool_sizes",
        "_pools",
        "_ready",
        "_tasks",
        "_timers",
        "_watched",
    )

    def __init__(
        self,
        name: str,
        lane: Lane | None,
        lanes: Mapping[str, Lane],
        observers: tuple[Observer, ...],
        threads: int,
        processes: int,
    ) -> None:
        super().__init__(observers)
        self._name = name
        self._lane = lane
        self._lanes = lanes
        # Whether anyone but the books wants to know of an end: lanes, observers, or a drain.
        # One look, where most ends have nothing to tell.
        self._watched = lane is not None or bool(lanes) or bool(observers)
        self._is_plain = False  # kept in step with `_is_undisturbed`: one look instead of four
        self._state = ScopeState.NEW
        self._loop = cast("asyncio.AbstractEventLoop", None)  # until it is entered
        self._children: ChildNotes
        self._host: Runner | None = None  # of the task that opened the scope, if one did
        self._tasks: dict[AnyTask, Runner | None] = {}  # with what runs it, once it does
        self._ready: list[AnyTask] = []  # those that begin at the loop's next turn
        self._deferred: dict[AnyTask, Lifecycle] = {}
        self._timers: dict[AnyTask, asyncio.TimerHandle] = {}
        self._door = threading.Lock()
        # What threads have accepted, and the loop has not seen.
        self._on_the_way: deque[Callable[[], object]] = deque()
        self._is_letting_in = False  # while one of them arrives
        self._idle_waiters: list[asyncio.Future[None]] = []
        self._drain: Drain | None = None
        self._pool_sizes = {"thread": threads, "process": processes}
        self._pools: dict[str, ThreadPool] = {}

    @property
    def name(self) -> str:
        """What logs call it."""
        return self._name

    def _is_undisturbed(self) -> bool:
        """Whether there is nothing but a task itself to think of when it comes in."""
        return (
            self._state is ScopeState.OPEN
            and self._host is None
            and not self._observers
            and not self._on_the_way
        )

    def _is_here(self) -> bool:
        try:
            return get_running_loop() is self._loop
        except RuntimeError:
            return False

    def _on_loop(self, call: Callable[..., object], *args: Any) -> None:
        """Call at once on the loop; from a thread, at the loop's next turn."""
        if self._is_here():
            call(*args)
        else:
            self._loop.call_soon_threadsafe(call, *args)

    def _find_lane(self, name: str | None) -> Lane | None:
        if name is None:
            return self._lane
        lane = self._lanes.get(name)
        if lane is None:
            known = ", ".join(f"'{lane}'" for lane in self._lanes) or "none"
            raise ConfigValueError(
                f"lane={name!r} is unknown: scope '{self._name}' has {known}; "
                f"add it with TaskScope(lanes={{{name!r}: limit}}), or in add_tasks(app, lanes=...)"
            )
        return lane

    # -- starts and ends, on the loop ----------------------------------------------------

    def _check_can_come(self, task: AnyTask) -> None:
        """Raise if the phase of a deferred task can not come while the caller waits."""
        unit = self._deferred.get(task)
        if unit is not None and unit.driver is not None and unit.driver is asyncio.current_task():
            raise RuntimeError(
                f"task '{task.name}' waits for the phase '{task.phase}' of this very request, "
                "which cannot come while it is awaited here; await it in another task, or "
                "schedule it without a phase, to start at once"
            )

    def _has(self, task: AnyTask) -> bool:
        return task in self._tasks or task in self._deferred

    def _launch(self, task: AnyTask) -> None:
        """Start a task that has its slot, unless it is too late."""
        if self._drain is not None and self._drain.refuses(task):
            task._finish(TaskState.CANCELLED)
        else:
            self._start(task)

    def _start(self, task: AnyTask) -> None:
        """Let a task begin at the loop's next turn."""
        if EAGER:  # pragma: no cover (from 3.12)
            if not self._ready:
                self._loop.call_soon(self._begin_ready)
            self._ready.append(task)
        else:  # pragma: no cover (up to 3.11)
            begin(task)

    def _begin_ready(self) -> None:  # pragma: no cover (from 3.12)
        """Begin what was ready when this turn of the loop came."""
        ready, self._ready = self._ready, []
        ready.reverse()
        task: AnyTask | None
        try:
            while ready:
                task = ready.pop()  # not held here until the others have begun
                if task._state is _SCHEDULED:  # else it was cancelled
                    begin(task)
        finally:
            while ready:  # Ctrl-C, where nobody handles the signal
                self._start(ready.pop())
            task = None  # as in `begin`

    def _phase_came(self, task: AnyTask) -> None:
        """Start a deferred task, or let its delay begin. Its unit has let go of it."""
        del self._deferred[task]
        self._tasks[task] = None
        config = task.config
        if config._direct or config.delay is None:
            self._admit(task)
        else:
            self._arm(task, config.delay)

    def _start_now(self, task: AnyTask) -> None:
        """Start a deferred task whose phase does not come any more, or whose delay is cut."""
        self._let_go_of_deferred(task)
        self._tasks[task] = None
        self._admit(task)

    def _arm(self, task: AnyTask, delay: float) -> None:
        """Let the delay of a task begin."""
        self._timers[task] = self._loop.call_later(delay, self._start_now, task)

    def _admit(self, task: AnyTask) -> None:
        """The moment of a deferred task has come: it starts, or waits for a slot."""
        config = task.config
        lane = self._lane if config._direct else self._find_lane(config.lane)
        if lane is None or lane.admit(task):
            task._state = _SCHEDULED
            self._launch(task)
        else:
            task._state = _WAITING

    def _succeed(self, task: AnyTask, value: Any) -> None:
        """Let a task that runs end with a result: `_end`, and no more than that can need.

        By itself, as the questions of `_end` are 4 % of a bare task, and 7 % on uvloop.
        """
        try:
            del self._tasks[task]
        except KeyError:
            return  # it ended after all, when it had been abandoned, which was reported
        task._outcome = value  # before the state: a thread may look
        task._state = _SUCCEEDED
        self._succeeded += 1
        if task._waiters is not None:
            task._wake()
        if self._watched:
            self._tell_of_end(task, _RUNNING)
        if self._idle_waiters and not self._tasks:
            self._wake_idle_waiters()

    def _end(self, task: AnyTask, state: TaskState, outcome: Any) -> None:
        """Bring a task into a final state without a result, and let go of it."""
        before = task._state
        if before is _ABANDONED:
            return
        task._outcome = outcome
        task._state = state
        self._ended_otherwise[state] += 1
        if before is _DEFERRED:
            self._let_go_of_deferred(task)
        self._tasks.pop(task, None)  # not there: deferred, or on its way from a thread
        with contextlib.suppress(AttributeError):  # it has started
            del task._context
        if task._waiters is not None:
            task._wake()
        if self._watched:
            self._tell_of_end(task, before)
        if self._idle_waiters and not self._tasks:
            self._wake_idle_waiters()

    def _tell_of_end(self, task: AnyTask, before: TaskState) -> None:
        if self._lane is not None or self._lanes:
            self._give_back(task, before)
        if self._observers:
            self._tell_end(task)
        if self._drain is not None:
            self._drain.ended(task)

    def _let_go_of_deferred(self, task: AnyTask) -> None:
        unit = self._deferred.pop(task, None)
        if unit is not None:
            unit._drop(task)
        if (timer := self._timers.pop(task, None)) is not None:
            timer.cancel()

    def _give_back(self, task: AnyTask, before: TaskState) -> None:
        """Give back the slot of a task, or its place in the queue, or its reservation."""
        config = task.config
        lane = self._lane if config._direct else self._find_lane(config.lane)
        if lane is None:
            return
        if before is _DEFERRED:
            lane.cancel_reservation()
        elif before is _WAITING:
            lane.withdraw()
        else:
            if self._drain is not None:
                while (first := lane.first()) is not None and self._drain.refuses(first):
                    # Not by `_launch`: each end would be inside the one before, a thousand deep.
                    first._finish(TaskState.CANCELLED)
            heir = lane.release()
            if heir is not None:
                heir._state = _SCHEDULED
                self._launch(heir)

    def _wake_idle_waiters(self) -> None:
        waiters, self._idle_waiters = self._idle_waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    # -- the end ----------------------------------------------------------------------------

    @abstractmethod
    def _start_drain(self) -> None:
        """Begin to drain, with the scope's own deadlines."""

    def _try_close(self) -> bool:
        """Close for good, unless there are tasks, or one is on its way from a thread."""
        with self._door:
            if self._tasks or self._deferred or self._on_the_way:
                return False
            self._state = ScopeState.CLOSED
        self._children.leave()
        self._host = None
        for pool in self._pools.values():
            pool.close()
        return True

    def _pool(self, kind: str) -> ThreadPool:
        """The threads that run plain functions (`"thread"`) or drive worker processes."""
        if kind not in self._pools:
            name = f"{self._name}-{kind}"
            at_end = load_processes().end_worker if kind == "process" else None
            self._pools[kind] = ThreadPool(self._pool_sizes[kind], self._loop, name, at_end)
        return self._pools[kind]
