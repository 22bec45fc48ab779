"""Which tasks a scope has: how one comes in, gets its slot, starts, and is let go of.

`TaskScope` adds the scope's life on top. Invariants:
    - An accepted task is in `_tasks`, or in `_deferred` while it waits for its phase,
      until it ends, and then in neither: a running task is strongly held, a finished
      one not at all.
    - Tasks may be accepted in any thread. The books, phases and ends of tasks are for the
      scope's loop alone: what a thread accepts arrives there at the loop's next turn, and
      the scope is not closed while one is on its way.
    - Nothing is accepted once the scope is closed, and while it drains only what comes
      from a shielded task that is being drained.
"""

from __future__ import annotations

import asyncio
import threading
from abc import abstractmethod
from asyncio import get_running_loop
from collections.abc import Callable, Mapping
from contextvars import ContextVar, copy_context
from types import FunctionType
from typing import TYPE_CHECKING, Any, cast

from taskcore._call import CO_COROUTINE, check_call, misfit, name_of
from taskcore._children import ChildNotes
from taskcore._config import TaskConfig
from taskcore._lane import Lane
from taskcore._observe import EventKind, Observer, TaskEvent, tell
from taskcore._processes import pack
from taskcore._run import Runner, current_root, inside_shield, run, start
from taskcore._scheduler import Scheduler
from taskcore._state import ScopeState, TaskState
from taskcore._task import AnyTask, Task
from taskcore._threads import ThreadPool, current_call
from taskcore.errors import (
    ConfigValueError,
    ScopeClosedError,
    WrongLoopError,
)

if TYPE_CHECKING:
    from taskcore._drain import Drain
    from taskcore._phase import Lifecycle


current_scope_var: ContextVar[Intake | None] = ContextVar("taskcore_scope", default=None)
"""The scope of the context: the one that was entered in it last, or that of its task."""

_OPEN = ScopeState.OPEN
_DEFERRED, _WAITING, _SCHEDULED = TaskState.DEFERRED, TaskState.WAITING, TaskState.SCHEDULED
_ABANDONED = TaskState.ABANDONED
_SHIELDED = TaskConfig(shield=True)
_FINAL_EVENTS: dict[TaskState, EventKind] = {
    TaskState.SKIPPED: "skipped",
    TaskState.ABANDONED: "abandoned",
}


class Intake(Scheduler):
    """The tasks of one scope."""

    __slots__ = (
        "__weakref__",
        "_children",
        "_deferred",
        "_door",
        "_drain",
        "_idle_waiters",
        "_lane",
        "_lanes",
        "_loop",
        "_name",
        "_observers",
        "_on_the_way",
        "_pool_sizes",
        "_pools",
        "_state",
        "_tasks",
        "_timers",
        "_watched",
    )

    def __init__(
        self,
        name: str,
        config: TaskConfig,
        lane: Lane | None,
        lanes: Mapping[str, Lane],
        observers: tuple[Observer, ...],
        threads: int,
        processes: int,
    ) -> None:
        self._unit = None
        self._index = 0
        self._name = name
        self.config = config
        self._lane = lane
        self._lanes = lanes
        # Whether anyone but the books wants to know of an end: lanes, observers, a drain, or
        # who waits until the scope is idle. One look, where most ends have nothing to tell.
        self._watched = lane is not None or bool(lanes) or bool(observers)
        self._observers = observers
        self._state = ScopeState.NEW
        self._loop = cast("asyncio.AbstractEventLoop", None)  # until it is entered
        self._children: ChildNotes
        self._tasks: dict[AnyTask, None] = {}
        self._deferred: dict[AnyTask, Lifecycle] = {}
        self._timers: dict[AnyTask, asyncio.TimerHandle] = {}
        self._door = threading.Lock()  # for the two lines below, which threads look at
        self._on_the_way = 0  # tasks that threads have accepted, and the loop has not seen
        self._idle_waiters: list[asyncio.Future[None]] = []
        self._drain: Drain | None = None
        self._pool_sizes = {"thread": threads, "process": processes}
        self._pools: dict[str, ThreadPool] = {}

    @property
    def name(self) -> str:
        """What logs call it."""
        return self._name

    @property
    def _intake(self) -> Intake:  # type: ignore[override]
        return self

    # -- one comes in ---------------------------------------------------------------------

    if not TYPE_CHECKING:  # type checkers see the overloads of Scheduler.schedule

        def schedule(self, func, /, *args, **kwargs):
            # The short way, for what is scheduled most: an `async def`, now, on the loop. What
            # `_accept` and `start` do stands here again, as two calls less save a fifth of a
            # bare task (docs/design.md#cost).
            config, lane = self.config, self._lane
            if (
                config._direct
                and not self._observers
                and (lane is None or lane.taken < lane.limit)
                and type(func) is FunctionType
                and func.__code__.co_flags & CO_COROUTINE
                and self._state is _OPEN
                and current_scope_var.get() is self
            ):
                try:
                    here = get_running_loop() is self._loop
                except RuntimeError:  # a thread
                    here = False
                if here:
                    try:  # binds the arguments, and runs nothing
                        work = func(*args, **kwargs) if kwargs else func(*args)
                    except TypeError as error:
                        raise misfit(func, error) from None
                    if lane is None or lane.take():
                        task = Task(self, func, args, kwargs, config, _SCHEDULED)
                        self._tasks[task] = None
                        runner = Runner(run(task, work, True), loop=self._loop, name=func.__name__)
                        runner.task = task
                        runner.work = work
                        task._runner = runner
                        return task
                    work.close()
            return self._accept(func, args, kwargs, config)

        schedule.__doc__ = Scheduler.schedule.__doc__

    def _accept(
        self,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        config: TaskConfig,
        unit: Lifecycle | None = None,
        index: int = 0,
    ) -> AnyTask:
        """Accept a task, to start at once, or when the phase `index` of `unit` comes."""
        try:
            here = get_running_loop() is self._loop
        except RuntimeError:  # a thread without a loop
            here = False
        if not here or self._state is not _OPEN:
            config = self._check_intake(f"'{name_of(func)}'", config)
        work = None
        if config._direct:
            lane, delay = self._lane, None
        else:
            lane, delay = self._find_lane(config.lane), config.delay
        if config._direct and type(func) is FunctionType and func.__code__.co_flags & CO_COROUTINE:
            try:  # binds the arguments, and runs nothing
                work = func(*args, **kwargs) if kwargs else func(*args)
            except TypeError as error:
                raise misfit(func, error) from None
        else:
            self._check_call(func, args, kwargs, config)
        if unit is None and delay is None and (lane is None or lane.take()):
            task: AnyTask = Task(self, func, args, kwargs, config, _SCHEDULED)
        else:
            if work is not None:
                work.close()
                work = None
            task = Task(self, func, args, kwargs, config, _DEFERRED)
            if lane is not None:
                lane.reserve(task)
        if current_scope_var.get() is not self:
            task._context = copy_context()
            task._context.run(current_scope_var.set, self)
        if work is not None and here and self._drain is None:
            # The short way of what is scheduled most: `_arrive` would come to the same.
            self._tasks[task] = None
            if self._observers:
                self._tell("scheduled", task)
            start(task, work)
            return task
        if work is not None:
            work.close()
        if task._context is None:
            task._context = copy_context()
        if here:
            self._arrive(task, unit, index)
        else:
            self._send(task, unit, index)
        return task

    def _send(self, task: AnyTask, unit: Lifecycle | None, index: int) -> None:
        """Let a task that a thread has accepted arrive on the loop."""
        # Both under the lock: what is counted is sure to arrive at the loop's next turn.
        with self._door:
            if self._state is not ScopeState.CLOSED and not self._loop.is_closed():
                self._loop.call_soon_threadsafe(self._arrive_from_thread, task, unit, index)
                self._on_the_way += 1
                return
        self._give_back(task, task._state)
        raise self._closed(f"'{task.name}'")

    def _arrive_from_thread(self, task: AnyTask, unit: Lifecycle | None, index: int) -> None:
        with self._door:
            self._on_the_way -= 1
        if not task.done():  # else cancelled on the way
            self._arrive(task, unit, index)
        elif not self._tasks:
            self._wake_idle_waiters()
        if self._drain is not None:
            self._drain.wake()

    def _arrive(self, task: AnyTask, unit: Lifecycle | None, index: int) -> None:
        """Write a task into its book, and let it go its way."""
        if unit is None:
            self._tasks[task] = None
        else:
            self._deferred[task] = unit
        if self._drain is not None:
            self._drain.accepted(task)
        if self._observers:
            self._tell("scheduled", task)
        if task.done():
            return  # cancelled by an observer
        if task._state is _SCHEDULED:
            self._launch(task)
        elif unit is not None:
            unit._defer(task, index)
        elif task.config._direct or task.config.delay is None:
            self._admit(task)
        else:
            self._arm(task, task.config.delay)

    def _check_call(
        self,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        config: TaskConfig,
    ) -> None:
        is_async = check_call(func, args, kwargs)
        run_in = config.run_in
        if is_async and run_in is not None and run_in != "loop":
            raise ConfigValueError(
                f"run_in={run_in!r} cannot run the coroutine function '{name_of(func)}': "
                "it belongs on the loop; leave run_in out, or schedule a plain function"
            )
        if run_in == "process":
            pack(func, args, kwargs)

    def _check_intake(self, what: str, config: TaskConfig | None = None) -> TaskConfig:
        """Raise unless the scope takes tasks from the caller; return the config to use."""
        config = config or self.config
        if self._state is ScopeState.NEW:
            raise ScopeClosedError(
                f"cannot schedule {what}: scope '{self._name}' was not entered yet; "
                "write 'async with TaskScope() as scope:' around it"
            )
        if not self._is_here():
            try:
                get_running_loop()
            except RuntimeError:
                pass  # a thread without a loop of its own
            else:
                raise self._wrong_loop(f"schedule {what}")
        if self._state is _OPEN and not self._loop.is_closed():
            return config
        in_thread = current_call() is not None or not self._is_here()
        runner = None if in_thread else current_root()
        task = inside_shield.get() if runner is None else runner.task
        if task is not None and task in self._tasks and task.config.shield:
            # What a shielded task schedules while it is drained belongs to what it protects.
            return config.merge(_SHIELDED)
        raise self._closed(what)

    def _closed(self, what: str) -> ScopeClosedError:
        return ScopeClosedError(
            f"cannot schedule {what}: scope '{self._name}' is {self._state.value}; "
            "schedule it before shutdown, from inside a shielded task, "
            "or open a scope of your own with 'async with TaskScope()'"
        )

    def _find_lane(self, name: str | None) -> Lane | None:
        if name is None:
            return self._lane
        lane = self._lanes.get(name)
        if lane is None:
            known = ", ".join(f"'{lane}'" for lane in self._lanes) or "none"
            raise ConfigValueError(
                f"lane={name!r} is unknown: scope '{self._name}' has {known}; "
                f"add it with TaskScope(lanes={{{name!r}: limit}})"
            )
        return lane

    def _wrong_loop(self, what: str) -> WrongLoopError:
        return WrongLoopError(
            f"cannot {what}: scope '{self._name}' belongs to another event loop; call it there, "
            "or from a thread that runs no loop"
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

    # -- starts and ends, on the loop ----------------------------------------------------

    def _launch(self, task: AnyTask) -> None:
        """Start a task that has its slot, unless it is too late."""
        if self._drain is not None and self._drain.refuses(task):
            task._finish(TaskState.CANCELLED)
        else:
            start(task)

    def _phase_came(self, task: AnyTask) -> None:
        """Start a deferred task, or let its delay begin. Its unit has let go of it."""
        del self._deferred[task]
        self._tasks[task] = None
        if task.config._direct or task.config.delay is None:
            self._admit(task)
        else:
            self._arm(task, task.config.delay)

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
        lane = self._lane_of(task)
        task._state = _WAITING
        if lane is None or lane.admit(task):
            task._state = _SCHEDULED
            self._launch(task)

    def _lane_of(self, task: AnyTask) -> Lane | None:
        return self._lane if task.config._direct else self._find_lane(task.config.lane)

    def _end(self, task: AnyTask, state: TaskState, outcome: Any) -> None:
        """Bring a task into a final state, and let go of it. The only way there is."""
        before = task._state
        if before is _ABANDONED:
            return  # it ended after all, and has been reported
        task._state = state
        task._outcome = outcome
        task._runner = None
        task._context = None
        if task._waiters is not None:
            task._wake()
        if before is _DEFERRED:
            self._let_go_of_deferred(task)
        self._tasks.pop(task, None)  # not there: deferred, or on its way from a thread
        if not self._watched:
            return
        if self._lane is not None or self._lanes:
            self._give_back(task, before)
        if self._observers:
            self._tell(_FINAL_EVENTS.get(state, "finished"), task)
        if self._drain is not None:
            self._drain.ended(task)
        if self._idle_waiters and not self._tasks:
            self._wake_idle_waiters()

    def _let_go_of_deferred(self, task: AnyTask) -> None:
        unit = self._deferred.pop(task, None)
        if unit is not None:
            unit._drop(task)
        if (timer := self._timers.pop(task, None)) is not None:
            timer.cancel()

    def _give_back(self, task: AnyTask, before: TaskState) -> None:
        """Give back the slot of a task, or its place in the queue, or its reservation."""
        lane = self._lane_of(task)
        if lane is None:
            return
        if before is _DEFERRED:
            lane.cancel_reservation()
        elif before is _WAITING:
            lane.withdraw()
        elif (heir := lane.release()) is not None:
            heir._state = _SCHEDULED
            self._launch(heir)

    def _wake_idle_waiters(self) -> None:
        waiters, self._idle_waiters = self._idle_waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _tell(self, kind: EventKind, task: AnyTask) -> None:
        tell(self._observers, TaskEvent(kind, task, self._loop.time()))

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
        for pool in self._pools.values():
            pool.close()
        return True

    def _pool(self, kind: str) -> ThreadPool:
        """The threads that run plain functions (`"thread"`) or drive worker processes."""
        if kind not in self._pools:
            name = f"{self._name}-{kind}"
            self._pools[kind] = ThreadPool(self._pool_sizes[kind], self._loop, name)
        return self._pools[kind]
