"""One scheduled call: its states, and the handle that the user holds.

States and their moves are one table, `MOVES` in `_state`. Invariants:
    - A task makes only moves of the table, so it ends in exactly one final state. The
      tests check every assignment of `_state` against it.
    - `Books._end`, and `Books._succeed` beside it, are the only ways into a final state:
      they set the outcome, wake whoever waits, and let go of the task, once.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Callable, Generator
from contextvars import Context
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, Protocol, TypeAlias, TypeVar, cast

from taskcore._call import name_of
from taskcore._config import TaskConfig
from taskcore._state import FINAL, MOVES, TaskState
from taskcore.errors import (
    TaskAbandonedError,
    TaskCancelledError,
    TaskNotFinishedError,
    TaskSkippedError,
    WrongLoopError,
)

if TYPE_CHECKING:
    from taskcore._run import Runner
    from taskcore._threads import ThreadPool

P = ParamSpec("P")
T = TypeVar("T", covariant=True)

__all__ = ["FINAL", "MOVES", "AnyTask", "Started", "Task", "TaskState"]


_ids = itertools.count(1)


class Home(Protocol):
    """What a task needs of its scope."""

    _loop: asyncio.AbstractEventLoop
    _observers: tuple[Any, ...]
    _host: Any
    _tasks: dict[Task[..., Any], Runner | None]

    @property
    def name(self) -> str:
        """What messages call the scope."""
        ...

    def _pool(self, kind: str) -> ThreadPool:
        """The threads for plain functions, or those that drive worker processes."""
        ...

    def _is_here(self) -> bool:
        """Whether the caller runs on the scope's loop."""
        ...

    def _on_loop(self, call: Callable[..., object], *args: Any) -> None:
        """Call at once on the loop; from a thread, at the loop's next turn."""
        ...

    def _start_drain(self) -> None:
        """Begin to drain, with the scope's own deadlines."""
        ...

    def _check_can_come(self, task: Task[..., Any]) -> None:
        """Raise if the phase of a deferred task can not come while the caller waits."""
        ...

    def _has(self, task: Task[..., Any]) -> bool:
        """Whether a task has arrived on the loop, and has not ended."""
        ...

    def _tell(self, kind: Any, task: Task[..., Any], attempt: int | None = None) -> None:
        """Give an event to the observers."""
        ...

    def _enter(self, task: Task[..., Any]) -> None:
        """Let the instruments among the observers into the context of a task."""
        ...

    def _succeed(self, task: Task[..., Any], value: Any) -> None:
        """Let a task that runs end with a result."""
        ...

    def _end(self, task: Task[..., Any], state: TaskState, outcome: Any) -> None:
        """Bring a task into a final state, and let go of it."""
        ...


_Failure: TypeAlias = tuple[BaseException, TracebackType | None]
"""The outcome of a failed task."""


class Started:
    """Whether, and until when, a task has begun: the `started` of a `Task`."""

    __slots__ = ("_task",)

    def __init__(self, task: Task[..., Any]) -> None:
        self._task = task

    def is_set(self) -> bool:
        """Whether the function has begun. Stays true when the task has finished."""
        return hasattr(self._task, "_began")

    async def wait(self) -> bool:
        """Wait until the function has begun.

        Returns:
            True once it has; false if the task ended without ever beginning.

        Cancellation:
            Safe: the task is not touched.
        """
        task = self._task
        while not self.is_set() and not task.done():
            waiter = task._new_waiter()
            # A thread may have begun, and looked for waiters, just before this one was added.
            if not self.is_set():
                await task._until(waiter)
        return self.is_set()


class Task(Generic[P, T]):
    """One scheduled call, and the handle to watch it, await it or cancel it.

    Made by `schedule`, never by hand. Awaiting it gives the function's result or raises
    its exception; cancelling whoever awaits does not cancel the task.

    Pitfalls:
        A task that awaits its own handle would wait for ever, and is refused.
        Code that reaches a phase only later, such as an endpoint, waits for ever for a task
        that is deferred to it.
        `asyncio.wait_for(task, 5)` bounds your wait, not the task: use
        `scope.task(timeout=5)` for that.

    Attributes:
        func: The function.
        args: Its positional arguments.
        config: The settings in force: those of the scope, and what was set nearer to it.
    """

    __slots__ = (
        "__weakref__",
        "_began",
        "_context",
        "_id",
        "_kwargs",
        "_outcome",
        "_phase",
        "_scope",
        "_state",
        "_waiters",
        "args",
        "config",
        "func",
    )

    func: Callable[P, Any]
    args: tuple[Any, ...]
    config: TaskConfig
    # Set where there is one, as each assignment for every task would show in its cost.
    _began: float  # on the loop's clock
    _context: Context  # from the schedule of one that does not start at once, to its start
    _id: int
    _outcome: Any  # the result, the failure, or why it was skipped
    _phase: str

    _kwargs: dict[str, Any] | None
    _scope: Home
    _state: TaskState
    _waiters: list[asyncio.Future[None]] | None

    def __init__(self) -> None:
        """Refused: `schedule` makes tasks.

        Raises:
            TypeError: Always; call `schedule`.
        """
        raise TypeError("a Task is not made by hand; schedule(function, ...) returns one")

    # -- what it is ---------------------------------------------------------------------

    @property
    def id(self) -> int:
        """A number that no other task of this process has, given when first asked for."""
        try:
            return self._id
        except AttributeError:
            return _give_id(self)

    @property
    def kwargs(self) -> dict[str, Any]:
        """The function's keyword arguments."""
        return self._kwargs or {}

    @property
    def name(self) -> str:
        """`config.name`, or the function's qualified name."""
        return self.config.name or name_of(self.func)

    @property
    def phase(self) -> str | None:
        """The phase that it was scheduled on; `None` if it was on none."""
        return getattr(self, "_phase", None)

    @property
    def state(self) -> TaskState:
        """What it is doing, or how it ended."""
        return self._state

    @property
    def started(self) -> Started:
        """Whether the function has begun: `started.is_set()`, `await started.wait()`."""
        return Started(self)

    def done(self) -> bool:
        """Whether it is in a final state, and its error handler, if any, has run."""
        return self._state in FINAL

    def cancelled(self) -> bool:
        """Whether it ended by cancellation."""
        return self._state is TaskState.CANCELLED

    def __repr__(self) -> str:
        """Name, id and state; never the arguments."""
        return f"<Task '{self.name}' id={self.id} {self._state.value}>"

    # -- what came of it ----------------------------------------------------------------

    def result(self) -> T:
        """Return what the function returned, or raise what it raised.

        Raises:
            TaskNotFinishedError: It has not finished; `await` it instead.
            TaskCancelledError: It was cancelled (or abandoned: `TaskAbandonedError`).
            TaskSkippedError: It never ran, because of how its unit of work ended.
        """
        if self._state is TaskState.SUCCEEDED:
            return cast("T", self._outcome)
        try:
            raise self._error()
        finally:
            # The traceback holds this frame, and this frame the task, which holds the error.
            del self

    def exception(self) -> BaseException | None:
        """Return what the function raised, `None` if it returned.

        Raises:
            TaskNotFinishedError: It has not finished.
            TaskCancelledError: It was cancelled (or abandoned: `TaskAbandonedError`).
            TaskSkippedError: It never ran, because of how its unit of work ended.
        """
        if self._state is TaskState.SUCCEEDED:
            return None
        if self._state is TaskState.FAILED:
            return self._error()
        try:
            raise self._error()
        finally:
            del self

    def _error(self) -> BaseException:
        match self._state:
            case TaskState.FAILED:
                # With the traceback that it had, not those of all who ever awaited it.
                error, traceback = cast("_Failure", self._outcome)
                return error.with_traceback(traceback)
            case TaskState.CANCELLED:
                return TaskCancelledError(f"task '{self.name}' (id {self.id}) was cancelled")
            case TaskState.ABANDONED:
                return TaskAbandonedError(
                    f"task '{self.name}' (id {self.id}) was cancelled, did not stop, "
                    "and was abandoned; the log says where it hangs"
                )
            case TaskState.SKIPPED:
                why = self._outcome or (
                    "because of how its unit of work ended; schedule it with "
                    "task(when='always') to run it in any case"
                )
                return TaskSkippedError(f"task '{self.name}' (id {self.id}) was skipped, {why}")
            case _:
                return TaskNotFinishedError(
                    f"task '{self.name}' (id {self.id}) is {self._state.value}; "
                    "'await task' waits for its result"
                )

    def __await__(self) -> Generator[Any, None, T]:
        """Wait for the end; return the result or raise the exception."""
        try:
            if self._state not in FINAL:
                yield from self.wait().__await__()
            return self.result()
        finally:
            del self  # see `result`

    async def wait(self) -> None:
        """Wait until it has finished, however it ended. Never raises the task's own error.

        Raises:
            WrongLoopError: Called on another event loop than the scope's.
            RuntimeError: Called by the task itself; or by the request whose next phase it
                waits for, such as an endpoint that awaits an `after_response` task.

        Cancellation:
            Safe: the task is not touched.
        """
        if self._state in FINAL:
            return
        runner = self._runner
        if runner is not None and asyncio.current_task() is runner:
            raise RuntimeError(
                f"task '{self.name}' cannot wait for itself; schedule another task that does"
            )
        if self._state is TaskState.DEFERRED:
            self._scope._check_can_come(self)
        while self._state not in FINAL:
            await self._until(self._new_waiter())

    def _new_waiter(self) -> asyncio.Future[None]:
        loop = asyncio.get_running_loop()
        if loop is not self._scope._loop:
            raise WrongLoopError(
                f"cannot wait for task '{self.name}': it runs on another event loop; "
                "wait for it where its scope lives"
            )
        waiter: asyncio.Future[None] = loop.create_future()
        if self._waiters is None:
            self._waiters = [waiter]
        else:
            self._waiters.append(waiter)
        return waiter

    async def _until(self, waiter: asyncio.Future[None]) -> None:
        try:
            await waiter
        finally:
            if waiter.cancelled() and self._waiters is not None and waiter in self._waiters:
                self._waiters.remove(waiter)

    # -- moves --------------------------------------------------------------------------

    def cancel(self) -> bool:
        """Ask it to stop. May be called from any thread. A shield does not hold against it.

        A task that has not begun never begins. A coroutine gets `CancelledError` at its
        next await. A function in a thread goes on until it returns or asks
        `check_cancelled()`; if it has not ended after one second, it is abandoned. One in
        a worker process ends with that process.

        Returns:
            False if it has finished already. True is no promise that it will end as
            cancelled: it may still return, or fail.
        """
        if self._state in FINAL:
            return False
        if self._scope._is_here():
            self._cancel()
        else:
            self._scope._loop.call_soon_threadsafe(self._cancel)
        return True

    def _cancel(self) -> None:
        if self._state in FINAL:
            return
        if self._runner is not None:
            self._runner.cancel()
        elif self._scope._has(self):
            self._finish(TaskState.CANCELLED)
        else:  # on its way from a thread: it arrives first, as its observers expect
            self._scope._loop.call_soon(self._cancel)

    @property
    def _runner(self) -> Runner | None:
        """The asyncio task that runs it, if one does."""
        return self._scope._tasks.get(self)

    def _begin(self) -> None:
        """The function begins: on the loop, or in its thread."""
        if not hasattr(self, "_began"):
            self._began = self._scope._loop.time()
            self._state = TaskState.RUNNING
            if self._waiters is not None or self._scope._observers:
                self._tell_begun()

    def _took(self) -> float | None:
        """Seconds since its function has begun; `None` if it has not."""
        began: float | None = getattr(self, "_began", None)
        return None if began is None else self._scope._loop.time() - began

    def _tell_begun(self) -> None:
        self._scope._on_loop(self._wake)
        if self._scope._observers:
            self._scope._on_loop(self._scope._tell, "started", self)

    def _finish(self, state: TaskState, outcome: Any = None) -> None:
        """Come into a final state, on the scope's loop."""
        self._scope._end(self, state, outcome)

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, None
        for waiter in waiters or ():
            if not waiter.done():
                waiter.set_result(None)


_new: Callable[[Any], Any] = object.__new__


def make_task(
    scope: Home,
    func: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    config: TaskConfig,
    state: TaskState,
) -> AnyTask:
    """Make a task: not by a call of the class, which takes a fifth longer."""
    task: AnyTask = _new(Task)
    task._scope = scope
    task.func = func
    task.args = args
    task._kwargs = kwargs or None
    task.config = config
    task._state = state
    task._waiters = None
    return task


_id_lock = threading.Lock()


def _give_id(task: AnyTask) -> int:
    with _id_lock:
        # Another thread may have asked at the same time.
        if not hasattr(task, "_id"):  # pragma: no branch
            task._id = next(_ids)
    return task._id


AnyTask: TypeAlias = Task[..., Any]
