"""How one task runs: attempts, their timeout, threads, and what becomes of an error.

Invariant: whatever the user's functions raise ends here. `run` is the coroutine of
one asyncio task; it lets nothing through, so neither the loop nor a sibling is harmed,
and the error handler runs inside it, under the same shield.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import inspect
import itertools
import os
from collections.abc import Callable, Coroutine, Iterator
from contextvars import ContextVar, copy_context
from functools import cache, partial
from types import TracebackType
from typing import Any, cast
from weakref import WeakSet, ref

from taskcore import _executors as executors
from taskcore import _threads as threads
from taskcore._call import is_coroutine_function, is_plain_coroutine_function
from taskcore._executors import UserExecutor
from taskcore._log import say_abandoned, say_failed, say_handler_failed, say_unasked
from taskcore._shield import hide, list_children
from taskcore._state import TaskState
from taskcore._task import AnyTask, Task
from taskcore._threads import ThreadPool, current_call
from taskcore.errors import (
    ConfigTypeError,
    NoCurrentTaskError,
    TaskCancelledError,
    TaskTimeoutError,
    WorkerDiedError,
)

OWN_FILE = __file__
"""Left out where the stack of a coroutine is shown."""
_OWN_FILES = (
    *(__file__, threads.__file__, executors.__file__),
    os.path.join(os.path.dirname(__file__), "_processes.py"),
)

STOP_TIME = 1.0
"""Seconds that what was cancelled may take to stop before it is abandoned.

Long enough for a `finally` that closes a connection; short enough that a drain keeps
within `grace_period + shield_timeout + 2` seconds (promise S1).
"""


inside_shield: ContextVar[ref[AnyTask] | None] = ContextVar("taskcore_shield", default=None)
"""The shielded task that the context belongs to: also in its threads and asyncio tasks.

By reference, as what it schedules has the same context, and may live longer.
"""

_RUNNING = TaskState.RUNNING


class Runner(asyncio.Task[None]):
    """The asyncio task of one of ours, which hears of a cancellation before it began.

    asyncio throws such a cancellation into a coroutine that has not begun, which then
    ends without running a line of `run`: nobody would be told.
    """

    __slots__ = ("children", "task")
    task: AnyTask
    children: WeakSet[asyncio.Task[Any]]  # not there until it adopts one

    def cancel(self, msg: Any | None = None) -> bool:
        """Cancel; if `run` has not begun, end our task here and now."""
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


def start(task: AnyTask) -> None:
    """Give `task`, which has its slot, to the loop: it begins at the next turn."""
    scope, func, config, context = task._scope, task.func, task.config, task._context
    del task._context
    direct = config._direct and is_plain_coroutine_function(func)
    work: Coroutine[Any, Any, Any]
    if not direct:
        work = _attempts(task)
    elif task._kwargs:
        work = func(*task.args, **task._kwargs)
    else:
        work = func(*task.args)
    name = func.__name__ if direct else task.name
    # Not loop.create_task(): an eager task factory would run user code inside schedule().
    runner = Runner(run(task, work, direct), loop=scope._loop, name=name, context=context)
    runner.task = task
    scope._tasks[task] = runner
    if scope._host is not None:
        scope._host.adopt(runner)
    if config._shielded:
        hide(runner)


async def run(task: AnyTask, work: Coroutine[Any, Any, Any], direct: bool) -> None:
    """Await `work` and bring `task` into its final state."""
    scope = task._scope
    if task.config._shielded:
        inside_shield.set(ref(task))
    elif not direct:
        inside_shield.set(None)  # not that of the task which scheduled it
    if direct:
        # What `task._begin()` does, and a tenth of the whole cost as a call of it.
        task._began = scope._loop.time()
        task._state = _RUNNING
        if task._waiters is not None or scope._observers:
            scope._enter(task)
            task._tell_begun()
    elif scope._observers:
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
        # From 3.12 on the user's frame leads back to this one, and the task to the error.
        del task, work
    else:
        scope._succeed(task, value)


def _is_running(task: AnyTask) -> bool:
    runner = task._runner
    try:
        return runner is not None and asyncio.current_task() is runner
    except RuntimeError:
        return False


async def _fail(task: AnyTask, error: BaseException) -> None:
    traceback = _clear_own_frames(error)
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
            await _call(task, handler, (task, error), {})
        except BaseException as second:
            if _is_stuck(second):
                task._finish(TaskState.ABANDONED)
                return
            say_handler_failed(task, handler, error, second)
    task._finish(TaskState.FAILED, (error, traceback))


def _clear_own_frames(error: BaseException) -> TracebackType | None:
    """Clear our own frames, which lead back to the task, up to the first of the user's.

    Returns:
        The traceback from there on: it is the user's, and makes no cycle with the task.
    """
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_frame.f_code.co_filename in _OWN_FILES:
        if traceback.tb_frame.f_code is not run.__code__:
            with contextlib.suppress(RuntimeError):  # one that runs: ours, or a worker thread's
                traceback.tb_frame.clear()
        traceback = traceback.tb_next
    return traceback


def _is_stuck(error: BaseException) -> bool:
    """Whether a function in a thread was given up when it did not stop."""
    return isinstance(error, asyncio.CancelledError) and any(arg is _STUCK for arg in error.args)


def _is_foreign(task: AnyTask, error: asyncio.CancelledError) -> bool:
    """Whether a task let through what it got from awaiting another, cancelled, task."""
    runner = task._runner
    return isinstance(error, TaskCancelledError) and runner is not None and not runner.cancelling()


# -- attempts: retry around limiter around timeout around the call -------------------------


async def _attempts(task: AnyTask) -> Any:
    retry = task.config.retry
    if retry is None:
        return await _limited(task, task.args, task.kwargs)
    # By reference, as the frames of `retry` hold it, and an error those frames.
    attempt = partial(_attempt, ref(task), itertools.count(1))
    answer = retry(attempt, *task.args, **task.kwargs)
    if not inspect.isawaitable(answer):
        raise ConfigTypeError(
            f"retry={retry!r} of task '{task.name}' returned {type(answer).__name__}, not an "
            "awaitable; pass an async callable, such as tenacity.AsyncRetrying()"
        )
    if inspect.iscoroutine(answer) and answer.cr_code is _attempt.__code__:
        answer.close()
        raise ConfigTypeError(
            f"retry={retry!r} of task '{task.name}' called the function and did not await it, "
            "so it would never retry; pass an async callable, such as tenacity.AsyncRetrying()"
        )
    return await answer


async def _attempt(
    reference: ref[AnyTask], numbers: Iterator[int], /, *args: Any, **kwargs: Any
) -> Any:
    """What a retry calls, as often as it sees fit."""
    task = reference()
    assert task is not None  # it runs
    number = next(numbers)
    if number > 1 and task._scope._observers:
        task._scope._tell("retried", task, number)
    try:
        return await _limited(task, args, kwargs)
    except BaseException as error:
        # The frames of `retry` are the user's, so `_fail` does not see these, which lie below.
        _clear_own_frames(error)
        raise
    finally:
        del task


async def _limited(task: AnyTask, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    limiter = task.config.limiter
    if limiter is None:
        return await _timed(task, args, kwargs)
    async with limiter:
        return await _timed(task, args, kwargs)


async def _timed(task: AnyTask, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    seconds = task.config.timeout
    if seconds is None:
        return await _call(task, task.func, args, kwargs)
    bound = asyncio.timeout(seconds)
    try:
        async with bound:
            value = await _call(task, task.func, args, kwargs)
    except TimeoutError:
        if not bound.expired():
            raise
    else:
        if not bound.expired():
            return value
    raise TaskTimeoutError(
        f"task '{task.name}' (id {task.id}) took longer than timeout={seconds} s; "
        "raise its timeout, or retry it",
        seconds,
    )


# -- the call: on the loop, in a thread, a process, or an executor of the user's ------------


@cache
def load_processes() -> Any:
    """The module `_processes`, imported when it is first needed: it takes its time."""
    return importlib.import_module("taskcore._processes")


async def _call(
    task: AnyTask, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Call `func` (the task's function or its error handler) where it belongs."""
    is_task = func is task.func
    where = task.config.run_in if is_task else None
    begun = task._begin if is_task else _nothing
    if where == "loop" or (where is None and is_coroutine_function(func)):
        begun()
        answer = func(*args, **kwargs)
    elif where is None or where == "thread":
        pool = task._scope._pool("thread")
        answer = await _in_thread(task, pool, partial(func, *args, **kwargs), begun)
    elif where == "process":
        call = load_processes().ProcessCall(task.name, load_processes().pack(func, args, kwargs))
        pool = task._scope._pool("process")
        answer = await _in_thread(task, pool, call.run, begun, call.kill)
    else:
        executor = UserExecutor(where, task._scope._loop)
        answer = await _in_thread(task, executor, partial(func, *args, **kwargs), begun)
    # A lambda that returns a coroutine, or an async function behind a plain decorator.
    return await answer if inspect.iscoroutine(answer) else answer


def _nothing() -> None:
    pass


async def _in_thread(
    task: AnyTask,
    pool: ThreadPool | UserExecutor,
    func: Callable[[], Any],
    begun: Callable[[], None],
    interrupt: Callable[[], None] = _nothing,
) -> Any:
    call = pool.submit(func, copy_context(), begun, task)
    try:
        await asyncio.wait((call.answer,))
    except asyncio.CancelledError:
        if pool.withdraw(call):
            raise
        call.cancelled = True
        interrupt()
        if not await _stops(call.answer):
            say_abandoned(task, call.stack())
            pool.abandon(call)
            raise asyncio.CancelledError(_STUCK) from None
        if isinstance(call.answer.result()[1], TaskCancelledError | WorkerDiedError):
            raise  # it stopped because we asked
    return _unpack(*call.answer.result())


def _unpack(value: Any, error: BaseException | None) -> Any:
    if error is None:
        return value
    try:
        raise error
    finally:
        del error, value  # the traceback holds this frame


_STUCK = object()


async def _stops(answer: asyncio.Future[Any]) -> bool:
    """Wait up to `STOP_TIME` for what was cancelled; further cancellations change nothing."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + STOP_TIME
    while not answer.done() and loop.time() < deadline:
        try:
            await asyncio.wait((answer,), timeout=deadline - loop.time())
        except asyncio.CancelledError:
            continue
    return answer.done()


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
