"""Options of one task: timeout, retry, limiter, run_in and delay, with the real libraries."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import math
import multiprocessing
import os
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from typing import Any

import aiolimiter
import anyio
import pytest
import stamina
import tenacity

from taskcore import Task, TaskConfig, TaskScope, TaskState, check_cancelled, current_task
from taskcore._clock import VirtualClockLoop
from taskcore.errors import (
    ConfigTypeError,
    ConfigValueError,
    TaskCancelledError,
    TaskTimeoutError,
)
from taskcore.spi import Retry, RunIn

AnyTask = Task[..., Any]

setting: contextvars.ContextVar[str] = contextvars.ContextVar("setting", default="unset")


def now() -> float:
    """The time on the loop's clock."""
    return asyncio.get_running_loop().time()


async def ignore(task: AnyTask, error: BaseException) -> None:
    """An error handler that is content."""


class Flaky:
    """A function that fails the first few times it is called; each call has its own count."""

    def __init__(self, failures: int, error: BaseException | None = None) -> None:
        self.failures = failures
        self.error = error or ConnectionError("try again")
        self.calls: dict[str, list[float]] = {}

    async def fetch(self, key: str) -> str:
        calls = self.calls.setdefault(key, [])
        calls.append(now())
        await asyncio.sleep(0)
        if len(calls) <= self.failures:
            raise self.error
        return key.upper()

    def compute(self, key: str) -> str:
        calls = self.calls.setdefault(key, [])
        calls.append(0.0)
        if len(calls) <= self.failures:
            raise self.error
        return key.upper()


# -- timeout ------------------------------------------------------------------------------------


@pytest.mark.virtual
async def test_timeout_ends_an_attempt() -> None:
    """L2: a coroutine that takes longer than `timeout` fails with the length it was allowed."""
    async with TaskScope(config=TaskConfig(on_error=ignore)) as scope:
        late = scope.task(timeout=5, name="late").schedule(asyncio.sleep, 6)
        punctual = scope.task(timeout=5).schedule(asyncio.sleep, 4, "done")
        await late.wait()
        assert now() == 5
    error = late.exception()
    assert isinstance(error, TaskTimeoutError)
    assert isinstance(error, TimeoutError)
    assert error.timeout == 5
    assert str(error) == (
        f"task 'late' (id {late.id}) took longer than timeout=5 s; raise its timeout, or retry it"
    )
    assert punctual.result() == "done"


@pytest.mark.virtual
async def test_timeout_of_the_function_itself_is_its_own() -> None:
    """L2: a `TimeoutError` that the function raises is not taken for that of the attempt."""

    async def fetch() -> None:
        async with asyncio.timeout(1):
            await asyncio.sleep(10)

    async with TaskScope(config=TaskConfig(on_error=ignore)) as scope:
        task = scope.task(timeout=5).schedule(fetch)
    assert type(task.exception()) is TimeoutError


@pytest.mark.virtual
async def test_attempt_that_swallows_its_timeout_has_timed_out_all_the_same() -> None:
    """L2: a function that answers its timeout with a result has taken too long nonetheless."""

    async def stubborn() -> str:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(100)
        await asyncio.sleep(0)
        return "too late"

    async with TaskScope(config=TaskConfig(on_error=ignore)) as scope:
        task = scope.task(timeout=5).schedule(stubborn)
    assert isinstance(task.exception(), TaskTimeoutError)


@pytest.mark.virtual
async def test_timeout_covers_one_attempt() -> None:
    """L2: each attempt of a retry has the whole timeout, and a timeout can be retried."""
    began: list[float] = []

    async def slow_twice() -> str:
        began.append(now())
        await asyncio.sleep(10 if len(began) < 3 else 4)
        return "done"

    retry = tenacity.AsyncRetrying(
        retry=tenacity.retry_if_exception_type(TimeoutError), wait=tenacity.wait_fixed(2)
    )
    async with TaskScope() as scope:
        task = scope.task(timeout=5, retry=retry).schedule(slow_twice)
    assert task.result() == "done"
    assert began == [0, 7, 14]


@pytest.mark.virtual
async def test_waiting_for_a_limiter_does_not_count() -> None:
    """L2: the time that an attempt waits for its limiter is not part of its timeout."""
    async with TaskScope() as scope:
        one = scope.task(timeout=5, limiter=asyncio.Semaphore(1))
        tasks = [one.schedule(asyncio.sleep, 4, n) for n in range(3)]
    assert [task.result() for task in tasks] == [0, 1, 2]
    assert now() == 12


@pytest.mark.virtual
async def test_handler_of_a_timeout_is_called() -> None:
    """I2: `on_error` gets the timeout, and the last error of a retry."""
    errors: list[BaseException] = []

    async def note(task: AnyTask, error: BaseException) -> None:
        errors.append(error)

    flaky = Flaky(5)
    retry = tenacity.AsyncRetrying(stop=tenacity.stop_after_attempt(2), reraise=True)
    async with TaskScope(config=TaskConfig(on_error=note)) as scope:
        scope.task(timeout=1).schedule(asyncio.sleep, 2)
        scope.task(retry=retry).schedule(flaky.fetch, "a")
    assert [type(error) for error in errors] == [ConnectionError, TaskTimeoutError]


# -- timeout of a thread ------------------------------------------------------------------------


def virtual_loop() -> VirtualClockLoop:
    """The running virtual clock."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualClockLoop)
    return loop


@pytest.mark.virtual
async def test_thread_that_asks_is_stopped_by_its_timeout() -> None:
    """L2, S6: a function that calls `check_cancelled` ends soon after its timeout."""
    loop, ended = virtual_loop(), list[type[BaseException]]()
    pause = threading.Event()

    def compute() -> None:
        try:
            while True:
                pause.wait(0.001)
                check_cancelled()
        except BaseException as error:
            ended.append(type(error))
            raise

    async with TaskScope(config=TaskConfig(on_error=ignore)) as scope:
        task = scope.task(timeout=5).schedule(compute)
        # The clock waits for the thread before it begins, and from the timeout on.
        loop.busy = lambda: loop.time() >= 5 or not task.started.is_set()
        await task.wait()
        loop.busy = lambda: False
        assert now() == 5
    assert ended == [TaskCancelledError]
    assert isinstance(task.exception(), TaskTimeoutError)


@pytest.mark.virtual
async def test_thread_that_does_not_ask_is_given_up(caplog: pytest.LogCaptureFixture) -> None:
    """L2, S6: a function that does not ask is given up a moment after its timeout, and named."""
    loop, begun, release = virtual_loop(), threading.Event(), threading.Event()

    def hang() -> None:
        begun.set()
        release.wait()

    async with TaskScope(config=TaskConfig(on_error=ignore)) as scope:
        task = scope.task(timeout=5, name="stuck").schedule(hang)
        loop.busy = lambda: not begun.is_set()
        await task.wait()
        release.set()
    assert isinstance(task.exception(), TaskTimeoutError)
    assert 5 < now() < 7
    (record,) = caplog.records
    assert "abandoned task 'stuck'" in record.getMessage()
    assert "in hang\n" in record.getMessage()


@pytest.mark.virtual
async def test_thread_is_retried_after_its_timeout(caplog: pytest.LogCaptureFixture) -> None:
    """L2: the next attempt of a function that is stuck runs in another thread."""
    loop, release = virtual_loop(), threading.Event()
    threads: list[int] = []

    def stuck_once() -> str:
        threads.append(threading.get_ident())
        if len(threads) == 1:
            release.wait()
        return "done"

    async with TaskScope(threads=1) as scope:
        task = scope.task(timeout=5, retry=tenacity.AsyncRetrying()).schedule(stuck_once)
        loop.busy = lambda: not threads or loop.time() >= 6
        assert await task == "done"
        loop.busy = lambda: False
        release.set()
    assert len(set(threads)) == 2
    caplog.clear()


# -- retry --------------------------------------------------------------------------------------

RETRIES: dict[str, Callable[[], Retry]] = {
    "tenacity": lambda: tenacity.AsyncRetrying(
        stop=tenacity.stop_after_attempt(3),
        wait=tenacity.wait_fixed(10),
        retry=tenacity.retry_if_exception_type(ConnectionError),
        reraise=True,
    ),
    "stamina": lambda: stamina.AsyncRetryingCaller(
        attempts=3, timeout=None, wait_initial=10, wait_exp_base=1, wait_jitter=0, wait_max=10
    ).on(ConnectionError),
}
with_each_retry = pytest.mark.parametrize("library", RETRIES)


@with_each_retry
@pytest.mark.virtual
async def test_retry_of_a_library_is_used_as_it_is(library: str) -> None:
    """L2: one caller of tenacity or stamina retries many tasks at once, each for itself."""
    flaky = Flaky(failures=2)
    async with TaskScope(config=TaskConfig(retry=RETRIES[library]())) as scope:
        tasks = [scope.schedule(flaky.fetch, f"key {n}") for n in range(100)]
        await asyncio.gather(*(task.wait() for task in tasks))
    assert [task.result() for task in tasks] == [f"KEY {n}" for n in range(100)]
    assert len(flaky.calls) == 100
    assert all(calls == [0, 10, 20] for calls in flaky.calls.values())


@with_each_retry
@pytest.mark.virtual
async def test_last_error_of_a_retry_is_that_of_the_task(library: str) -> None:
    """L2: when the attempts are used up the task fails, once, with the last error."""
    flaky = Flaky(failures=3)
    async with TaskScope(config=TaskConfig(on_error=ignore)) as scope:
        task = scope.task(retry=RETRIES[library]()).schedule(flaky.fetch, "a")
    assert task.exception() is flaky.error
    assert flaky.calls == {"a": [0, 10, 20]}


@with_each_retry
@pytest.mark.virtual
async def test_error_that_is_not_to_be_retried(library: str) -> None:
    """L2: an error that the caller does not retry ends the task at its first attempt."""
    flaky = Flaky(failures=1, error=ValueError("no use"))
    async with TaskScope(config=TaskConfig(on_error=ignore)) as scope:
        task = scope.task(retry=RETRIES[library]()).schedule(flaky.fetch, "a")
    assert task.exception() is flaky.error
    assert flaky.calls == {"a": [0]}


@with_each_retry
async def test_plain_function_is_retried_in_threads(library: str) -> None:
    """L2: plain functions are retried as well; `retry` is given something to await."""
    flaky = Flaky(failures=2)
    retries: dict[str, Retry] = {
        "tenacity": tenacity.AsyncRetrying(),
        "stamina": stamina.AsyncRetryingCaller(wait_initial=0, wait_jitter=0, wait_max=0).on(
            ConnectionError
        ),
    }
    async with TaskScope() as scope:
        task = scope.task(retry=retries[library]).schedule(flaky.compute, "a")
    assert task.result() == "A"
    assert len(flaky.calls["a"]) == 3


@with_each_retry
@pytest.mark.virtual
async def test_drain_interrupts_what_a_retry_waits_for(library: str) -> None:
    """L2: the pause of a retry ends with the grace period; there is no further attempt."""
    flaky = Flaky(failures=100)
    async with TaskScope() as scope:
        task = scope.task(retry=RETRIES[library]()).schedule(flaky.fetch, "a")
        report = await scope.drain(grace_period=3, shield_timeout=100)
    assert task.cancelled()
    assert report.duration == 3
    assert flaky.calls == {"a": [0]}


@with_each_retry
@pytest.mark.virtual
async def test_drain_lets_a_shielded_retry_go_on(library: str) -> None:
    """L2: the pauses and attempts of a shielded task go on until it has its result."""
    flaky = Flaky(failures=2)
    async with TaskScope() as scope:
        task = scope.task(retry=RETRIES[library](), shield=True).schedule(flaky.fetch, "a")
        await scope.drain(grace_period=3, shield_timeout=None)
    assert task.result() == "A"
    assert flaky.calls == {"a": [0, 10, 20]}


@with_each_retry
@pytest.mark.virtual
async def test_cancelled_between_two_attempts(library: str) -> None:
    """L4: a task that is cancelled in the pause of its retry gives its slot back at once."""
    flaky = Flaky(failures=100)
    async with TaskScope(limit=1) as scope:
        task = scope.task(retry=RETRIES[library]()).schedule(flaky.fetch, "a")
        heir = scope.schedule(asyncio.sleep, 0, "heir")
        asyncio.get_running_loop().call_later(3, task.cancel)
        assert await heir == "heir"
        assert now() == 3
    assert task.cancelled()


async def test_retry_gets_the_arguments() -> None:
    """L2: `retry` is called with the function's own arguments, which it may change."""
    seen: list[object] = []

    async def retry(func: Callable[..., Awaitable[Any]], *args: Any, **kwargs: Any) -> Any:
        seen.append((args, kwargs))
        return await func(*args, **kwargs | {"task": 3})

    async def add(one: int, *, task: int) -> int:
        return one + task

    async with TaskScope() as scope:
        task = scope.task(retry=retry).schedule(add, 1, task=2)
    assert task.result() == 4
    assert seen == [((1,), {"task": 2})]


async def test_retry_that_never_calls_the_function() -> None:
    """L2: a `retry` that gives an answer of its own ends the task without a start."""

    async def cached(func: Callable[..., Awaitable[Any]], *args: Any) -> str:
        return "cached"

    async with TaskScope() as scope:
        task = scope.task(retry=cached).schedule(asyncio.sleep, 3600)
    assert task.result() == "cached"
    assert not task.started.is_set()


async def test_slot_is_held_from_the_first_to_the_last_attempt() -> None:
    """L4: a retried task holds one slot through all its attempts."""
    states: list[TaskState] = []
    flaky = Flaky(failures=3)

    async def look() -> None:
        states.append(retried.state)

    async with TaskScope(limit=1) as scope:
        retried = scope.task(retry=tenacity.AsyncRetrying()).schedule(flaky.fetch, "a")
        scope.schedule(look)
    assert states == [TaskState.SUCCEEDED]


@pytest.mark.parametrize(
    "retry",
    [
        tenacity.Retrying(stop=tenacity.stop_after_attempt(3)),
        stamina.RetryingCaller().on(ValueError),
    ],
)
def test_retry_for_plain_functions_is_refused(retry: Any) -> None:
    """L2: the sync callers of the same libraries, which would never retry, are refused."""
    with pytest.raises(ConfigTypeError, match=r"retry=.* async callable .*AsyncRetrying\(\)"):
        TaskConfig(retry=retry)


async def test_retry_that_does_not_await_fails_its_task() -> None:
    """L2: a plain function as `retry` that only passes the call through is an error."""
    calls: list[int] = []

    def retry(func: Callable[..., Any], *args: Any) -> Any:
        for _ in range(3):
            with contextlib.suppress(ConnectionError):
                return func(*args)
        return None

    async def fetch() -> None:
        calls.append(1)
        raise ConnectionError

    async with TaskScope(config=TaskConfig(on_error=ignore)) as scope:
        task = scope.task(retry=retry).schedule(fetch)
    assert calls == []
    with pytest.raises(ConfigTypeError, match=r"retry=.* async callable"):
        task.result()


async def test_retry_that_returns_no_awaitable_fails_its_task() -> None:
    """L2: a `retry` that returns a value is an error that says what to pass."""

    def retry(func: Callable[..., Any], *args: Any) -> Any:
        return "value"

    async with TaskScope(config=TaskConfig(on_error=ignore)) as scope:
        task = scope.task(retry=retry).schedule(asyncio.sleep, 0)
    with pytest.raises(ConfigTypeError, match=r"returned str, .* async callable"):
        task.result()


async def test_function_that_returns_the_coroutine_of_a_library_is_taken() -> None:
    """L2: a function or partial around the caller of a library is as good as the caller."""
    flaky = Flaky(failures=1)
    retrying: Any = tenacity.AsyncRetrying()

    def around(func: Callable[..., Any], *args: Any) -> Any:
        return retrying(func, *args)

    async with TaskScope() as scope:
        retries: list[Retry] = [around, partial(retrying)]
        for retry in retries:
            flaky.calls.clear()
            assert await scope.task(retry=retry).schedule(flaky.fetch, "a") == "A"


# -- limiter ------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [lambda: asyncio.Semaphore(3), lambda: anyio.CapacityLimiter(3)])
async def test_limiter_of_a_library_bounds_the_runs(
    make: Callable[[], contextlib.AbstractAsyncContextManager[Any]],
) -> None:
    """L2: `asyncio.Semaphore` and `anyio.CapacityLimiter` let as many in as they say."""
    running, most = 0, 0

    async def count() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1

    async with TaskScope(config=TaskConfig(limiter=make())) as scope:
        tasks = [scope.schedule(count) for _ in range(20)]
    assert most == 3
    assert {task.state for task in tasks} == {TaskState.SUCCEEDED}


@pytest.mark.virtual
async def test_aiolimiter_bounds_the_rate() -> None:
    """L2: `aiolimiter.AsyncLimiter` spreads the runs over time."""
    began: list[float] = []

    async def note() -> None:
        began.append(now())

    async with TaskScope() as scope:
        limited = scope.task(limiter=aiolimiter.AsyncLimiter(2, 10))
        for _ in range(6):
            limited.schedule(note)
    assert began == [0, 0, *(pytest.approx(at, abs=0.1) for at in (5, 10, 15, 20))]


@pytest.mark.virtual
async def test_limiter_is_entered_around_each_attempt() -> None:
    """L2: a limiter is free while a retry waits, and held again for each attempt."""
    order: list[str] = []

    class Gate:
        """A limiter that notes who comes and goes."""

        async def __aenter__(self) -> None:
            order.append("in")

        async def __aexit__(self, *exc: object) -> None:
            order.append("out")

    async def retry_sleep(seconds: float) -> None:
        order.append("pause")

    flaky = Flaky(failures=1)
    async with TaskScope() as scope:
        retry = tenacity.AsyncRetrying(sleep=retry_sleep)
        await scope.task(retry=retry, limiter=Gate()).schedule(flaky.fetch, "a")
    assert order == ["in", "out", "pause", "in", "out"]


@pytest.mark.parametrize("make", [lambda: asyncio.Semaphore(1), lambda: anyio.CapacityLimiter(1)])
async def test_task_cancelled_while_it_waits_for_a_limiter(
    make: Callable[[], contextlib.AbstractAsyncContextManager[Any]],
) -> None:
    """L2, L4: one that is cancelled at its limiter never begins, and the next gets in."""
    gate = asyncio.Event()
    async with TaskScope() as scope:
        limited = scope.task(limiter=make())
        holder, waiting, last = [limited.schedule(gate.wait) for _ in range(3)]
        await holder.started.wait()
        await asyncio.sleep(0)
        waiting.cancel()
        gate.set()
        assert await last
    assert waiting.cancelled()
    assert not waiting.started.is_set()


@pytest.mark.virtual
async def test_drain_interrupts_who_waits_for_a_limiter() -> None:
    """L2: the wait for a limiter ends with the grace period, unless it is shielded."""
    async with TaskScope() as scope:
        limited = scope.task(limiter=asyncio.Semaphore(1))
        tasks = [
            limited.task(shield=shield).schedule(asyncio.sleep, 4, "done")
            for shield in (True, False, True)
        ]
        await scope.drain(grace_period=1, shield_timeout=None)
    assert [task.state.value for task in tasks] == ["succeeded", "cancelled", "succeeded"]


async def test_limiter_that_raises_fails_its_task() -> None:
    """I1: an error of the limiter is that of the task, which never began."""

    class Broken:
        """A limiter that cannot be entered."""

        async def __aenter__(self) -> None:
            raise ConnectionError("no limiter")

        async def __aexit__(self, *exc: object) -> None:
            raise AssertionError("never entered")

    async with TaskScope(config=TaskConfig(on_error=ignore)) as scope:
        task = scope.task(limiter=Broken()).schedule(asyncio.sleep, 0)
    assert isinstance(task.exception(), ConnectionError)
    assert not task.started.is_set()


# -- run_in --------------------------------------------------------------------------------------


async def where() -> str:
    """A coroutine function that tells where it runs."""
    return threading.current_thread().name


def thread_and_setting() -> tuple[str, str]:
    """A plain function that tells its thread, and what it sees of the context."""
    return threading.current_thread().name, setting.get()


def where_plain() -> tuple[str, str, str]:
    """A plain function that tells where it runs, and what it sees."""
    return *thread_and_setting(), current_task().name


async def test_functions_run_where_they_belong() -> None:
    """L3: coroutine functions run on the loop, plain ones in a thread, unless `run_in` says."""
    here = threading.current_thread().name
    setting.set("seen")
    async with TaskScope(name="app") as scope:
        assert await scope.schedule(where) == here
        assert await scope.task(run_in="loop").schedule(where) == here
        named = scope.task(name="job")
        for plain in (named, named.task(run_in="thread")):
            thread, *seen = await plain.schedule(where_plain)
            assert thread.startswith("app-thread-")
            assert seen == ["seen", "job"]
        assert await named.task(run_in="loop").schedule(where_plain) == (here, "seen", "job")


async def test_run_in_a_thread_pool_of_the_user() -> None:
    """L3: an own thread pool runs the function, which sees the context of `schedule`."""
    setting.set("seen")
    with ThreadPoolExecutor(1, thread_name_prefix="mine") as pool:
        async with TaskScope() as scope:
            in_pool = scope.task(run_in=pool)
            assert await in_pool.schedule(thread_and_setting) == ("mine_0", "seen")
            failed = in_pool.task(on_error=ignore).schedule(int, "no number")
            await failed.wait()
            assert isinstance(failed.exception(), ValueError)


async def test_run_in_a_process_pool_of_the_user() -> None:
    """L3: an own process pool runs the function in another process."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        async with TaskScope(config=TaskConfig(run_in=pool, on_error=ignore)) as scope:
            assert await scope.schedule(os.getpid) != os.getpid()
            assert await scope.schedule(math.factorial, 10) == 3_628_800
            failed = scope.schedule(math.factorial, -1)
            await failed.wait()
            assert isinstance(failed.exception(), ValueError)


async def test_own_executor_that_raises_stop_iteration() -> None:
    """L3: a function that lets `StopIteration` through fails its task, wherever it runs."""
    with ThreadPoolExecutor(1) as pool:
        async with TaskScope(limit=1, config=TaskConfig(on_error=ignore)) as scope:
            places: list[RunIn] = ["loop", "thread", pool]
            for run_in in places:
                task: AnyTask = scope.task(run_in=run_in).schedule(next, iter(()))
                async with asyncio.timeout(5):
                    await task.wait()
                assert task.state is TaskState.FAILED


async def test_own_executor_never_begins_what_was_cancelled() -> None:
    """L4, S6: a function that still waits for an own executor when cancelled never runs."""
    release, ran = threading.Event(), list[str]()
    with ThreadPoolExecutor(1) as pool:
        async with TaskScope() as scope:
            in_pool = scope.task(run_in=pool)
            holder = in_pool.schedule(release.wait)
            waiting = in_pool.schedule(ran.append, "ran")
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            waiting.cancel()
            await waiting.wait()
            release.set()
            await holder
    assert waiting.cancelled()
    assert ran == []


@pytest.mark.parametrize("run_in", ["thread", "process"])
async def test_coroutine_function_belongs_on_the_loop(run_in: Any) -> None:
    """I7: a coroutine function with `run_in` of another place is refused, which says why."""
    async with TaskScope() as scope:
        with pytest.raises(ConfigValueError, match=f"run_in='{run_in}' .*leave run_in out"):
            scope.task(run_in=run_in).schedule(where)


@pytest.mark.virtual
async def test_all_options_together() -> None:
    """L2, L3: lane, delay, retry, limiter, timeout and `run_in` in one task."""
    flaky = Flaky(failures=2)
    async with TaskScope(limit=1, lanes={"slow": 2}) as scope:
        task = scope.task(
            delay=30,
            lane="slow",
            retry=tenacity.AsyncRetrying(wait=tenacity.wait_fixed(1)),
            limiter=asyncio.Semaphore(1),
            timeout=5,
            run_in="loop",
            shield=True,
        ).schedule(flaky.compute, "a")
        assert await task == "A"
    assert len(flaky.calls["a"]) == 3
    assert now() == 32


# -- delay --------------------------------------------------------------------------------------


@pytest.mark.virtual
async def test_delay_puts_the_start_off() -> None:
    """A delayed task starts that many seconds after `schedule`, and a scope waits for it."""
    began: dict[str, float] = {}

    async def note(name: str) -> None:
        began[name] = now()

    async with TaskScope() as scope:
        delayed = scope.task(delay=30).schedule(note, "delayed")
        scope.task(delay=0).schedule(note, "at once")
        await asyncio.to_thread(scope.task(delay=20).schedule, note, "thread")
        assert delayed.state is TaskState.DEFERRED
    assert began == {"at once": 0, "thread": 20, "delayed": 30}


@pytest.mark.virtual
async def test_delay_counts_from_the_phase() -> None:
    """A delayed task of a phase starts that many seconds after the phase."""
    began: list[float] = []

    async def note() -> None:
        began.append(now())

    async with TaskScope() as scope, scope.lifecycle("end") as unit:
        unit.phase("end").task(delay=30).schedule(note)
        await asyncio.sleep(5)
    assert began == [35]


@pytest.mark.virtual
@pytest.mark.parametrize("limit", [None, 1])
async def test_delayed_task_can_be_cancelled(limit: int | None) -> None:
    """L4: a delayed task that is cancelled never starts, and nothing waits for its time."""
    async with TaskScope(limit=limit) as scope:
        tasks = [scope.task(delay=3600).schedule(asyncio.sleep, 0) for _ in range(3)]
        for task in tasks:
            assert task.cancel()
            assert task.cancelled()
        await scope.schedule(asyncio.sleep, 0)
    assert now() == 0


@pytest.mark.virtual
async def test_drain_cancels_what_is_delayed_beyond_the_grace_period() -> None:
    """Delayed tasks whose time comes in the grace period run; later ones do not."""
    async with TaskScope() as scope:
        soon = scope.task(delay=3).schedule(asyncio.sleep, 0)
        late = scope.task(delay=6).schedule(asyncio.sleep, 0)
        shielded = scope.task(delay=6, shield=True).schedule(asyncio.sleep, 0)
        report = await scope.drain(grace_period=5)
    assert [task.state.value for task in (soon, late, shielded)] == [
        "succeeded",
        "cancelled",
        "succeeded",
    ]
    assert report.duration == 3


@pytest.mark.timeout(20)
async def test_no_delay_at_all_while_a_drain_looks() -> None:
    """S1: a drain ends on every loop, though uvloop does not tell the time of what is due."""
    begin = asyncio.Event()

    async def parent() -> None:
        await begin.wait()
        scope.task(name="child", delay=0).schedule(asyncio.sleep, 0)

    async with TaskScope() as scope:
        scope.task(name="parent", shield=True).schedule(parent)
        drain = asyncio.create_task(scope.drain())
        await asyncio.sleep(0)
        begin.set()
        report = await drain
    assert {entry.name for entry in report.succeeded} == {"parent", "child"}


@pytest.mark.virtual
async def test_drain_does_not_wait_for_a_delay_that_began_in_it() -> None:
    """What a shielded task schedules with a delay while it is drained is not lost for it."""
    children: list[AnyTask] = []

    async def parent() -> None:
        await asyncio.sleep(1)
        children.append(scope.task(delay=3600).schedule(asyncio.sleep, 0))

    async with TaskScope() as scope:
        scope.task(shield=True).schedule(parent)
        await asyncio.sleep(0)
        report = await scope.drain(grace_period=0, shield_timeout=20)
    assert [child.state for child in children] == [TaskState.SUCCEEDED]
    assert report.duration < 20


# -- wrong values -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"timeout": -1}, ConfigValueError, "timeout=-1 .* pass seconds >= 0"),
        ({"timeout": math.nan}, ConfigValueError, "timeout=nan .* pass seconds >= 0"),
        ({"timeout": math.inf}, ConfigValueError, "timeout=inf .* leave it out for no limit"),
        ({"timeout": "5"}, ConfigTypeError, "timeout='5' .* pass seconds"),
        ({"timeout": True}, ConfigTypeError, "timeout=True .* pass seconds"),
        ({"delay": -0.5}, ConfigValueError, "delay=-0.5 .* pass seconds >= 0"),
        ({"delay": "soon"}, ConfigTypeError, "delay='soon' .* pass seconds"),
        ({"retry": 3}, ConfigTypeError, r"retry=3 .* async callable retry\(func"),
        ({"limiter": 5}, ConfigTypeError, r"limiter=5 .* such as asyncio.Semaphore\(5\)"),
        ({"limiter": threading.Lock()}, ConfigTypeError, "limiter=.*lock.* __aenter__"),
        ({"limiter": asyncio.Semaphore}, ConfigTypeError, "limiter=.*Semaphore.* __aenter__"),
        ({"run_in": "fork"}, ConfigValueError, "run_in='fork' .*'loop', 'thread', 'process'"),
        ({"run_in": ThreadPoolExecutor}, ConfigValueError, "run_in=.* concurrent.futures"),
        ({"lane": ""}, ConfigValueError, "lane='' .* pass a name"),
        ({"lane": 7}, ConfigTypeError, "lane=7 .* pass a str"),
        ({"name": ""}, ConfigValueError, "name='' .* pass a name"),
        ({"name": b"x"}, ConfigTypeError, "name=b'x' .* pass a str"),
        ({"shield": 1}, ConfigTypeError, "shield=1 .* pass True or False"),
        ({"when": "later"}, ConfigValueError, "when='later' .*'success', 'failure', 'always'"),
        ({"on_error": "log"}, ConfigTypeError, r"on_error='log' .*\(task, exception\)"),
        ({"on_error": len}, ConfigTypeError, r"on_error=.*\(task, exception\)"),
    ],
)
def test_wrong_option_is_refused(
    options: dict[str, Any], error: type[Exception], match: str
) -> None:
    """I7: a wrong option is refused where it is given, with its name, value and what is right."""
    with pytest.raises(error, match=match):
        TaskConfig(**options)
    unit_scope = TaskScope()
    if "when" not in options:
        with pytest.raises(error, match=match):
            unit_scope.task(**options)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"grace_period": -1}, ConfigValueError, "grace_period=-1 .* or None for no limit"),
        ({"shield_timeout": "20"}, ConfigTypeError, "shield_timeout='20' .* or None"),
        ({"config": {"timeout": 5}}, ConfigTypeError, r"config=.* pass TaskConfig\(...\)"),
        ({"on_drain": "log"}, ConfigTypeError, r"on_drain='log' .* pass a function\(report\)"),
    ],
)
def test_wrong_option_of_a_scope_is_refused(
    options: dict[str, Any], error: type[Exception], match: str
) -> None:
    """I7: a wrong option of the scope is refused by its constructor, which says what is right."""
    with pytest.raises(error, match=match):
        TaskScope(**options)
