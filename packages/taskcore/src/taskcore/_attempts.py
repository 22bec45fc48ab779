"""What lies between a task and its function: attempts, and where the call is made.

From outside to inside: a retry, around a limiter, around a timeout, around the call, on
the loop, in a thread, in a worker process, or in an executor of the user's.

Invariant: a cancellation of the task comes out as `CancelledError`, at most `STOP_TIME`
after it, also where the function can not be interrupted.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import inspect
import itertools
import os
from collections.abc import Callable, Iterator
from contextvars import copy_context
from functools import cache, partial
from types import TracebackType
from typing import Any
from weakref import ref

from taskcore._call import is_coroutine_function
from taskcore._executors import UserExecutor
from taskcore._log import say_abandoned
from taskcore._task import AnyTask
from taskcore._threads import ThreadPool
from taskcore.errors import (
    ConfigTypeError,
    TaskCancelledError,
    TaskTimeoutError,
    WorkerDiedError,
)

_HERE = os.path.dirname(__file__)
OWN_FILES = frozenset(
    os.path.join(_HERE, name)
    for name in ("_run.py", "_attempts.py", "_threads.py", "_executors.py", "_processes.py")
)
"""Left out where the stack of a task is shown, and where its traceback begins."""

STOP_TIME = 1.0
"""Seconds that what was cancelled may take to stop before it is abandoned.

Long enough for a `finally` that closes a connection; short enough that a drain keeps
within `grace_period + shield_timeout + 2` seconds (promise S1).
"""


def clear_own_frames(error: BaseException) -> TracebackType | None:
    """Clear our own frames, which lead back to the task, up to the first of the user's.

    Returns:
        The traceback from there on: it is the user's, and makes no cycle with the task.
    """
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_frame.f_code.co_filename in OWN_FILES:
        with contextlib.suppress(RuntimeError):  # one that runs: ours, or a worker thread's
            traceback.tb_frame.clear()
        traceback = traceback.tb_next
    return traceback


async def attempts(task: AnyTask) -> Any:
    """All that a task comes to; returns what its function returned, or raises its last error."""
    retry = task.config.retry
    if retry is None:
        try:
            return await _limited(task, task.args, task.kwargs)
        finally:
            del task  # as in `run`
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
    del task
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
        clear_own_frames(error)
        raise
    finally:
        del task


async def _limited(task: AnyTask, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    limiter = task.config.limiter
    try:
        if limiter is None:
            return await _timed(task, args, kwargs)
        async with limiter:
            return await _timed(task, args, kwargs)
    finally:
        del task


async def _timed(task: AnyTask, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    seconds = task.config.timeout
    value = bound = None
    try:
        if seconds is None:
            return await invoke(task, task.func, args, kwargs)
        bound = asyncio.timeout(seconds)
        try:
            async with bound:
                value = await invoke(task, task.func, args, kwargs)
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
    finally:
        del task, bound, value


# -- the call: on the loop, in a thread, a process, or an executor of the user's ------------


@cache
def load_processes() -> Any:
    """The module `_processes`, imported when it is first needed: it takes its time."""
    return importlib.import_module("taskcore._processes")


async def invoke(
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
    del task, begun
    try:
        # A lambda that returns a coroutine, or an async function behind a plain decorator.
        return await answer if inspect.iscoroutine(answer) else answer
    finally:
        del answer


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
            raise asyncio.CancelledError(STUCK) from None
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


STUCK = object()


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
