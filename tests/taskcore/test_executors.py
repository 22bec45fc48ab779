"""Executors of the user's: what functions find in them, how they stop, what breaks them."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor
from concurrent.futures import ThreadPoolExecutor as Threads
from contextvars import copy_context
from typing import Any

import pytest

from taskcore import Task, TaskConfig, TaskScope, TaskState, check_cancelled, current_task
from taskcore._clock import VirtualClockLoop
from taskcore._threads import ThreadCall
from taskcore.errors import TaskTimeoutError, WorkerDiedError
from tests.taskcore.process_functions import echo, exit_at_once


async def ignore(task: Task[..., Any], error: BaseException) -> None:
    """An error handler that is content."""


@pytest.fixture
def threads() -> Iterator[Threads]:
    """A pool of one thread."""
    with Threads(1) as pool:
        yield pool


@pytest.fixture
def processes() -> Iterator[ProcessPoolExecutor]:
    """A pool of one process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool


async def error_of(task: Task[..., Any]) -> BaseException:
    """Wait for a task, which must fail, and return what it raised."""
    await task.wait()
    error = task.exception()
    assert error is not None
    return error


def work() -> None:
    """Work in small steps, and ask before each whether to stop."""
    while True:
        check_cancelled()
        time.sleep(0.001)


# -- threads -----------------------------------------------------------------------------------


async def test_function_finds_its_task(threads: Threads) -> None:
    """L3: in a thread pool of the user's a function finds its task, and may schedule."""
    async with TaskScope() as scope:

        def spread() -> tuple[str, Task[..., Any]]:
            return current_task().name, scope.schedule(echo, 1)

        name, child = await scope.task(run_in=threads, name="job").schedule(spread)
        assert name == "job"
        assert await child == ((1,), {})


async def test_failed_task_leaves_no_cycle(threads: Threads) -> None:
    """C3: an error in a thread pool of the user's is gone when its task is."""
    async with TaskScope(config=TaskConfig(run_in=threads, on_error=ignore)) as scope:
        gc.disable()
        try:
            gone = weakref.ref(await error_of(scope.schedule(fail)))
            await scope.schedule(echo)
            assert gone() is None
        finally:
            gc.enable()


def fail() -> None:
    raise WorkerDiedError("with an error that takes weak references")


async def test_function_stops_when_asked(threads: Threads) -> None:
    """S6: in a thread pool of the user's a function is told that it was cancelled."""
    async with TaskScope(config=TaskConfig(run_in=threads)) as scope:
        task = scope.schedule(work)
        await task.started.wait()
        task.cancel()
        await task.wait()
        assert task.cancelled()
        assert await scope.schedule(echo) == ((), {})


@pytest.mark.virtual
async def test_function_stops_at_its_timeout(threads: Threads) -> None:
    """L2, S6: in a thread pool of the user's a function is told that its time is up."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualClockLoop)
    loop.busy = lambda: loop.time() >= 5
    async with TaskScope(config=TaskConfig(run_in=threads, on_error=ignore)) as scope:
        task = scope.task(timeout=5).schedule(work)
        assert isinstance(await error_of(task), TaskTimeoutError)
    assert loop.time() == 5


@pytest.mark.parametrize("state", [TaskState.SUCCEEDED, TaskState.FAILED])
async def test_function_that_ends_in_spite_of_a_cancellation(
    state: TaskState, threads: Threads
) -> None:
    """L3: a cancelled function that returns has succeeded, and one that raises has failed."""
    release = threading.Event()

    def end() -> None:
        release.wait()
        if state is TaskState.FAILED:
            raise LookupError("in time")

    async with TaskScope() as scope:
        task = scope.task(run_in=threads, on_error=ignore).schedule(end)
        await task.started.wait()
        task.cancel()
        await asyncio.sleep(0)
        release.set()
        await task.wait()
        assert task.state is state


@pytest.mark.virtual
async def test_function_that_does_not_stop(
    threads: Threads, caplog: pytest.LogCaptureFixture
) -> None:
    """S1: a function that ignores its cancellation is abandoned; the log says where it hangs."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualClockLoop)
    hangs, release = threading.Event(), threading.Event()

    def stuck() -> None:
        hangs.set()
        release.wait()

    async with TaskScope() as scope:
        task = scope.task(run_in=threads, name="stuck").schedule(stuck)
        await asyncio.to_thread(hangs.wait)
        loop.busy = lambda: False
        task.cancel()
        loop.call_at(0.5, task.cancel)  # changes nothing
        await task.wait()
        assert (task.state, loop.time()) == (TaskState.ABANDONED, 1)
        release.set()
    (message,) = [record.getMessage() for record in caplog.records]
    assert "abandoned task 'stuck'" in message
    assert "in stuck" in message
    assert "_threads.py" not in message


async def test_function_that_has_not_begun(threads: Threads) -> None:
    """S6: a function that waits for a thread of the pool is scheduled, and not begun."""
    release = threading.Event()
    async with TaskScope(config=TaskConfig(run_in=threads)) as scope:
        running, waiting = scope.schedule(release.wait), scope.schedule(release.wait)
        await running.started.wait()
        assert (waiting.state, waiting.started.is_set()) == (TaskState.SCHEDULED, False)
        waiting.cancel()
        await waiting.wait()
        assert (waiting.cancelled(), waiting.started.is_set()) == (True, False)
        release.set()


async def test_drain_of_a_function_that_asks(threads: Threads) -> None:
    """S1, S6: a drain stops a function in a thread pool of the user's that asks."""
    async with TaskScope() as scope:
        task = scope.task(run_in=threads).schedule(work)
        await task.started.wait()
        report = await scope.drain(grace_period=0, shield_timeout=0)
    assert [entry.id for entry in report.cancelled] == [task.id]


async def test_stack_of_a_thread_that_has_left(threads: Threads) -> None:
    """The stack of a call that has ended meanwhile is empty, whatever its thread does now."""
    loop = asyncio.get_running_loop()
    call = ThreadCall(str, copy_context(), loop.create_future(), None, None)
    assert call.stack() == ""
    await loop.run_in_executor(threads, call.run)
    assert await call.answer == ("", None)
    assert call.thread_id in {thread.ident for thread in threading.enumerate()}
    assert call.stack() == ""


# -- executors that fail -----------------------------------------------------------------------


async def test_broken_process_pool(processes: ProcessPoolExecutor) -> None:
    """L3: a process pool that breaks fails its tasks with an error that says so."""
    async with TaskScope(config=TaskConfig(run_in=processes, on_error=ignore)) as scope:
        message = (
            "'job' was not run .*run_in=<.*ProcessPoolExecutor .*abruptly.*give it an executor"
        )
        first = await error_of(scope.task(name="job").schedule(exit_at_once, 1))
        second = await error_of(scope.task(name="job").schedule(echo))
        for error in (first, second):
            with pytest.raises(WorkerDiedError, match=message):
                raise error
            assert isinstance(error.__cause__, BrokenExecutor)


async def test_thread_pool_that_cannot_begin() -> None:
    """L3: a thread pool whose initializer fails is told like a broken process pool."""
    with Threads(1, initializer=int, initargs=("no number",)) as pool:
        async with TaskScope(config=TaskConfig(run_in=pool, on_error=ignore)) as scope:
            error = await error_of(scope.schedule(echo))
            assert isinstance(error, WorkerDiedError)


async def test_executor_that_was_shut_down(threads: Threads) -> None:
    """L3: a task whose executor was shut down before fails with an error that says so."""
    threads.shutdown()
    async with TaskScope() as scope:
        task = scope.task(run_in=threads, on_error=ignore).schedule(echo)
        with pytest.raises(WorkerDiedError, match="after shutdown; give it an executor that works"):
            raise await error_of(task)


async def test_executor_that_is_shut_down_meanwhile(threads: Threads) -> None:
    """L3: a function that an executor drops at its shutdown fails its task."""
    release = threading.Event()
    async with TaskScope(config=TaskConfig(run_in=threads, on_error=ignore)) as scope:
        running, waiting = scope.schedule(release.wait), scope.schedule(echo)
        await running.started.wait()
        threads.shutdown(wait=False, cancel_futures=True)
        with pytest.raises(WorkerDiedError, match="it was shut down before that began"):
            raise await error_of(waiting)
        release.set()
        assert await running is True


async def test_unpicklable_in_a_process_pool(processes: ProcessPoolExecutor) -> None:
    """L3: what a process pool cannot pickle fails the task with the pool's own error."""
    async with TaskScope() as scope:
        task = scope.task(run_in=processes, on_error=ignore).schedule(echo, threading.Lock())
        with pytest.raises(TypeError, match=r"cannot pickle '_thread.lock' object"):
            raise await error_of(task)


@pytest.mark.virtual
async def test_process_pool_function_that_goes_on(
    processes: ProcessPoolExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    """S1, S3: a function in a process pool cannot be stopped: it is abandoned, and told so."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualClockLoop)
    with multiprocessing.get_context("spawn").Manager() as manager:
        begun, release = manager.Event(), manager.Event()
        async with TaskScope() as scope:
            task = scope.task(run_in=processes).schedule(wait_for, begun, release)
            await asyncio.to_thread(begun.wait)
            loop.busy = lambda: False
            task.cancel()
            await task.wait()
            assert task.state is TaskState.ABANDONED
        release.set()
    assert "(no Python code)" in caplog.text


def wait_for(begun: Any, release: Any) -> None:
    begun.set()
    release.wait()


class Inline(Executor):
    """An executor of an unknown kind: it calls at once."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


async def test_executor_of_another_kind() -> None:
    """L3: any executor will do; what its function raises arrives, `StopIteration` as well."""
    async with TaskScope(config=TaskConfig(run_in=Inline(), on_error=ignore)) as scope:
        assert await scope.schedule(os.getpid) == os.getpid()
        assert isinstance(await error_of(scope.schedule(int, "no number")), ValueError)
        error = await error_of(scope.schedule(next, iter(())))
        assert isinstance(error, RuntimeError)
        assert isinstance(error.__cause__, StopIteration)
