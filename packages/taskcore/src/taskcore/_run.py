"""How one task runs: the asyncio task that it gets, how it begins, and what becomes of an error.

Invariant: whatever the user's functions raise ends here. `run` is the coroutine of
one asyncio task; it lets nothing through, so neither the loop nor a sibling is harmed,
and the error handler runs inside it, under the same shield.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import sys
from collections.abc import Coroutine
from contextvars import ContextVar
from typing import Any, cast
from weakref import WeakSet, ref

from taskcore._attempts import STUCK, attempts, clear_own_frames, invoke
from taskcore._call import is_plain_coroutine_function
from taskcore._log import say_failed, say_handler_failed, say_unasked
from taskcore._shield import hide, list_children
from taskcore._state import TaskState
from taskcore._task import AnyTask, Task
from taskcore._threads import current_call
from taskcore.errors import NoCurrentTaskError, TaskCancelledError

inside_shield: ContextVar[ref[AnyTask] | None] = ContextVar("taskcore_shield", default=None)
"""The shielded task that the context belongs to: also in its threads and asyncio tasks.

By reference, as what it schedules has the same context, and may live longer.
"""

_RUNNING = TaskState.RUNNING


class Runner(asyncio.Task[None]):
    """The asyncio task of one of ours, which hears of a cancellation before it began.

    asyncio throws such a cancellation into a coroutine that has not begun, which then
    ends without running a line of `run`: nobody would be told. Only up to Python 3.11 can
    one come so early (`EAGER`).
    """

    __slots__ = ("children", "task")
    task: AnyTask
    children: WeakSet[asyncio.Task[Any]]  # not there until it adopts one

    def cancel(self, msg: Any | None = None) -> bool:
        """Cancel; if `run` has not begun, end our task here and now."""
        if self.done():
            return False  # it may have no coroutine: 3.12.1 crashes when asked for it
        scope = self.task._scope
        if not scope._loop.is_running():
            # The clean-up of the loop: whoever owns the scope has not heard of it yet.
            scope._start_drain()
        coro = cast("Coroutine[Any, Any, None]", self.get_coro())
        if inspect.getcoroutinestate(coro) == inspect.CORO_CREATED and not self.task.done():
            inspect.getcoroutinelocals(coro)["work"].close()
            self.task._finish(TaskState.CANCELLED)
        return super().cancel(msg)

    def adopt(self, child: asyncio.Task[Any]) -> bool:
        """Let a child share shield and abandonment; return whether it is hidden now."""
        hidden = self.is_shielded()
        if not hasattr(self, "children"):
            self.children = WeakSet()
            if hidden:
                self.add_done_callback(list_children)
        self.children.add(child)
        if hidden:
            hide(child)
        return hidden

    def is_shielded(self) -> bool:
        """Whether its own shield, or that of the task that opened its scope, holds now."""
        host = self.task._scope._host
        shielded = self.task.config.shielded or (host is not None and host.is_shielded())
        return shielded and not self.done()


root_var: ContextVar[ref[Runner] | None] = ContextVar("taskcore_root", default=None)
"""In the asyncio tasks that a task of ours starts itself: its runner. See `_children`."""


def current_root(loop: asyncio.AbstractEventLoop | None = None) -> Runner | None:
    """The runner of ours that the caller's asyncio task is, or descends from.

    Args:
        loop: The loop of that task, running or not; by default the one that runs.

    Raises:
        RuntimeError: No loop was given, and none runs in this thread.
    """
    runner = asyncio.current_task(loop)
    if runner is None or isinstance(runner, Runner):
        return runner
    reference = root_var.get()
    root = None if reference is None else reference()
    return None if root is None or root.done() else root


EAGER = sys.version_info >= (3, 12)
"""Whether asyncio can take the first step of a task when it is made.

Then a task that has its slot is made into an asyncio task only when its turn comes: one
that ends in its first step costs neither a turn of its own nor a place on the list of
all tasks, which together are a quarter of a bare task.
"""


def begin(task: AnyTask) -> None:
    """Make the asyncio task that runs `task`; it takes its first step now, if it can (`EAGER`)."""
    scope, func, context = task._scope, task.func, task._context
    del task._context
    direct = task.config._direct and is_plain_coroutine_function(func)
    work: Coroutine[Any, Any, Any]
    if not direct:
        work = attempts(task)
    elif task._kwargs:
        work = func(*task.args, **task._kwargs)
    else:
        work = func(*task.args)
    name = func.__name__ if direct else task.name
    # Not loop.create_task(): what the loop has as its task factory is not asked.
    if sys.version_info >= (3, 12):  # pragma: no cover (from 3.12)
        # In the book before its first step, which looks for it there, and may end it.
        runner = Runner.__new__(Runner)
        runner.task = task
        scope._tasks[task] = runner
        coro = run(task, work, direct)
        runner.__init__(coro, loop=scope._loop, name=name, context=context, eager_start=True)
        is_over = runner.done()
    else:  # pragma: no cover (up to 3.11)
        runner = Runner(run(task, work, direct), loop=scope._loop, name=name, context=context)
        runner.task = task
        scope._tasks[task] = runner
        is_over = False
    if not is_over:  # pragma: no branch (up to 3.11)
        if scope._host is not None:
            scope._host.adopt(runner)
        if task.config._shielded:
            hide(runner)
    # The frame of a function that raised in its first step leads back to this one.
    del task, runner, work, context


async def run(task: AnyTask, work: Coroutine[Any, Any, Any], direct: bool) -> None:
    """Await `work` and bring `task` into its final state."""
    scope = task._scope
    if task.config._shielded:
        inside_shield.set(ref(task))
    if direct:
        # What `task._begin()` does, and a tenth of the whole cost as a call of it.
        task._began = scope._loop.time()
        task._state = _RUNNING
        if task._waiters is not None or scope._observers:
            scope._enter(task)
            task._tell_begun()
    else:
        if not task.config._shielded:
            inside_shield.set(None)  # not that of the task which scheduled it
        if scope._observers:
            scope._enter(task)
    try:
        value = await work
    except BaseException as error:
        if isinstance(error, GeneratorExit) and not _is_running(task):
            # The loop is gone, and this coroutine is being destroyed.
            with contextlib.suppress(RuntimeError):
                task._finish(TaskState.ABANDONED)
            raise
        await _fail(task, error)
    else:
        scope._succeed(task, value)
        del value
    # From 3.12 on the user's frame leads back to this one, and an error to that frame: the
    # task's, or one that the function caught and kept, or returned.
    del task, work


def _is_running(task: AnyTask) -> bool:
    runner = task._runner
    try:
        return runner is not None and asyncio.current_task() is runner
    except RuntimeError:
        return False


async def _fail(task: AnyTask, error: BaseException) -> None:
    traceback = clear_own_frames(error)
    error.with_traceback(traceback)  # an assignment is refused by frozen dataclasses
    if isinstance(error, asyncio.CancelledError) and not _is_foreign(task, error):
        stuck = _is_stuck(error)
        if not stuck and task._runner is not None and not task._runner.cancelling():
            say_unasked(task, error)
        task._finish(TaskState.ABANDONED if stuck else TaskState.CANCELLED)
        return
    handler = task.config.on_error
    if handler is None:
        say_failed(task, error)
    else:
        try:
            await invoke(task, handler, (task, error), {})
        except BaseException as second:
            if _is_stuck(second):
                task._finish(TaskState.ABANDONED)
                return
            say_handler_failed(task, handler, error, second)
    task._finish(TaskState.FAILED, (error, traceback))


def _is_stuck(error: BaseException) -> bool:
    """Whether a function in a thread was given up when it did not stop."""
    return isinstance(error, asyncio.CancelledError) and any(arg is STUCK for arg in error.args)


def _is_foreign(task: AnyTask, error: asyncio.CancelledError) -> bool:
    """Whether a task let through what it got from awaiting another, cancelled, task."""
    runner = task._runner
    return isinstance(error, TaskCancelledError) and runner is not None and not runner.cancelling()


def check_cancelled() -> None:
    """Raise if the task that the caller runs in was asked to stop; else return at once.

    For plain functions in threads, which cannot be interrupted: call it between two
    steps of long work. In a function whose attempt ran out of its `timeout` it raises as
    well. Outside of a task it does nothing, so a function can be used both ways; nor does it
    in a worker process, which is killed instead.

    Raises:
        TaskCancelledError: The task was cancelled; let it pass.
    """
    task = _task_here()
    if task is not None:
        call = current_call()
        runner = task._runner
        if call.cancelled if call is not None else runner is not None and runner.cancelling():
            raise TaskCancelledError(f"task '{task.name}' (id {task.id}) was asked to stop")


def current_task() -> Task[..., Any]:
    """The task whose function the caller is part of: on the loop, or in a thread.

    The thread is one of the scope, or of a `ThreadPoolExecutor` given as `run_in`.
    The asyncio tasks that the function starts itself are part of it, until it ends.

    Raises:
        NoCurrentTaskError: The caller is no part of a scheduled function, or runs in a
            worker process.
    """
    task = _task_here()
    if task is None:
        raise NoCurrentTaskError(
            "there is no current task: this code was not scheduled in a scope, or runs in a "
            "worker process; call current_task() in a function given to schedule()"
        )
    return task


def _task_here() -> AnyTask | None:
    call = current_call()
    if call is not None:
        return cast("AnyTask", call.owner)
    try:
        runner = current_root()
    except RuntimeError:  # a thread that is not ours
        return None
    return None if runner is None else runner.task
