"""How a task comes into a scope: checked, given its slot or its place, and written down.

`TaskScope` adds the scope's life on top. Invariants:
    - Tasks may be accepted in any thread. What a thread accepts arrives in the books at
      the loop's next turn, or when the next one is scheduled on the loop, whichever comes
      first; and the scope is not closed while one is on its way.
    - Nothing is accepted once the scope is closed, and while it drains only what comes
      from a shielded task that is being drained.
"""

from __future__ import annotations

import contextlib
from asyncio import get_running_loop
from collections.abc import Callable
from contextvars import ContextVar, copy_context
from functools import partial
from types import FunctionType
from typing import TYPE_CHECKING, Any, cast

from taskcore._attempts import load_processes
from taskcore._books import Books
from taskcore._call import CO_COROUTINE, check_call, name_of
from taskcore._config import TaskConfig
from taskcore._every import ScopeScheduler
from taskcore._run import EAGER, Runner, current_root, inside_shield, run
from taskcore._shield import hide
from taskcore._state import ScopeState, TaskState
from taskcore._task import AnyTask, make_task
from taskcore._threads import current_call
from taskcore.errors import (
    ConfigValueError,
    ScopeClosedError,
    WrongLoopError,
)

if TYPE_CHECKING:
    from taskcore._phase import Lifecycle


current_scope_var: ContextVar[Intake | None] = ContextVar("taskcore_scope", default=None)
"""The scope of the context: the one that was entered in it last, or that of its task."""

_OPEN = ScopeState.OPEN
_DEFERRED, _WAITING, _SCHEDULED = TaskState.DEFERRED, TaskState.WAITING, TaskState.SCHEDULED
_SHIELDED = TaskConfig(shield=True)


class Intake(Books, ScopeScheduler):
    """What takes the tasks of one scope."""

    __slots__ = ("_index", "_unit", "config")

    def __init__(self, config: TaskConfig, *books: Any) -> None:
        super().__init__(*books)
        self.config: TaskConfig = config
        self._unit: Lifecycle | None = None
        self._index: int = 0

    @property
    def _intake(self) -> Intake:  # type: ignore[override]
        return self

    # -- one comes in ---------------------------------------------------------------------

    if not TYPE_CHECKING:  # type checkers see the overloads of Scheduler.schedule

        def schedule(self, func, /, *args, **kwargs):
            return self._accept(func, args, kwargs, self.config)

        schedule.__doc__ = ScopeScheduler.schedule.__doc__

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
        if not (
            here
            and self._is_plain
            and config._direct
            and type(func) is FunctionType
            and func.__code__.co_flags & CO_COROUTINE
            and current_scope_var.get() is self
        ):
            return self._accept_any(func, args, kwargs, config, unit, index, here)
        # The short way, for what is scheduled most: an `async def`, on the loop, that needs
        # nothing but to be awaited. `_accept_any` comes to the same (docs/design.md#cost).
        code = func.__code__
        if kwargs or len(args) != code.co_argcount or code.co_kwonlyargcount:
            check_call(func, args, kwargs)  # exact, and makes a coroutine
        lane = self._lane
        if unit is not None:
            task = make_task(self, func, args, kwargs, config, _DEFERRED)
            if lane is not None:
                lane.reserve(task)
            task._context = copy_context()
            task._phase = unit.phases[index]
            self._deferred[task] = unit
            unit._defer(task, index)
        elif lane is None or lane.take():
            task = make_task(self, func, args, kwargs, config, _SCHEDULED)
            if EAGER:  # pragma: no cover (from 3.12)
                task._context = copy_context()
                self._tasks[task] = None
                self._start(task)
            else:  # pragma: no cover (up to 3.11)
                # `begin` in short: asyncio copies the context, and what is known is not asked.
                work = func(*args, **kwargs) if kwargs else func(*args)
                runner = Runner(run(task, work, True), loop=self._loop, name=func.__name__)
                runner.task = task
                self._tasks[task] = runner
                if config._shielded:
                    hide(runner)
        else:
            task = make_task(self, func, args, kwargs, config, _WAITING)
            lane.join(task)
            task._context = copy_context()
            self._tasks[task] = None
        return task

    def _accept_any(
        self,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        config: TaskConfig,
        unit: Lifecycle | None,
        index: int,
        here: bool,
    ) -> AnyTask:
        """Accept a task of any kind, in any state of the scope, from anywhere."""
        if here and self._on_the_way and not self._is_letting_in:
            self._let_in()  # they were scheduled before (T2)
        if not here or self._state is not _OPEN:
            config = self._check_intake(f"'{name_of(func)}'", config)
        lane = self._find_lane(config.lane)
        self._check_call(func, args, kwargs, config)
        if unit is None and config.delay is None and (lane is None or (here and lane.take())):
            task: AnyTask = make_task(self, func, args, kwargs, config, _SCHEDULED)
        else:
            task = make_task(self, func, args, kwargs, config, _DEFERRED)
            if lane is not None:
                lane.reserve(task)
        task._context = copy_context()
        if current_scope_var.get() is not self:
            task._context.run(current_scope_var.set, self)
        if unit is not None:
            task._phase = unit.phases[index]
        if here:
            self._arrive(task, unit, index)
        elif not self._send(self._arrive, task, unit, index):
            with contextlib.suppress(RuntimeError):  # the loop has closed as well
                self._on_loop(self._give_back, task, task._state)
            raise self._closed(f"'{task.name}'")
        return task

    def _send(self, arrive: Callable[..., None], *args: Any) -> bool:
        """Let what a thread has accepted arrive on the loop; false if the scope has closed."""
        # Both under the lock: what is counted is sure to arrive at the loop's next turn.
        with self._door:
            if self._state is ScopeState.CLOSED or self._loop.is_closed():
                return False
            self._loop.call_soon_threadsafe(self._let_in)
            # In the caller's context (I4), whoever lets it in: for its series and observers.
            self._on_the_way.append(partial(copy_context().run, arrive, *args))
            self._is_plain = False
            return True

    def _let_in(self) -> None:
        """Let what threads have accepted arrive, in order. Called once for each, or earlier."""
        while True:
            with self._door:
                if not self._on_the_way:
                    self._is_plain = self._is_undisturbed()
                    break
                arrive = self._on_the_way.popleft()
            # What an observer or a series schedules meanwhile must not let in the next first.
            self._is_letting_in = True
            try:
                arrive()
            finally:
                self._is_letting_in = False
        if not self._tasks:
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
        elif task.config.delay is None:
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
            load_processes().pack(func, args, kwargs)

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
        task = self._caller()
        if task is not None and task in self._tasks and task.config.shield:
            # What a shielded task schedules while it is drained belongs to what it protects.
            return config.merge(_SHIELDED)
        raise self._closed(what)

    def _caller(self) -> AnyTask | None:
        """The task that the caller is part of; of a thread, the shielded one that it is."""
        call = current_call()
        if call is not None:
            return cast("AnyTask | None", call.owner)
        runner = current_root() if self._is_here() else None
        if runner is not None:
            return runner.task
        reference = inside_shield.get()
        return None if reference is None else reference()

    def _closed(self, what: str) -> ScopeClosedError:
        return ScopeClosedError(
            f"cannot schedule {what}: scope '{self._name}' is {self._state.value}; "
            "schedule it before shutdown, from inside a shielded task, "
            "or open a scope of your own with 'async with TaskScope()'"
        )

    def _wrong_loop(self, what: str) -> WrongLoopError:
        return WrongLoopError(
            f"cannot {what}: scope '{self._name}' belongs to another event loop; call it there, "
            "or from a thread that runs no loop"
        )
