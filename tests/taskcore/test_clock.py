"""The virtual clock: what moves it, what holds it, and when it gives up."""

from __future__ import annotations

import asyncio
import math
import socket
import sys
import threading
from typing import Any, cast

import pytest

from taskcore import TaskScope
from taskcore._clock import VirtualClockLoop, run_virtual
from tests.helpers import Journal


def now() -> float:
    return asyncio.get_running_loop().time()


def virtual_loop() -> VirtualClockLoop:
    return cast("VirtualClockLoop", asyncio.get_running_loop())


@pytest.mark.virtual
async def test_sleep() -> None:
    """Time starts at zero and moves by what was slept, exactly."""
    assert now() == 0.0
    await asyncio.sleep(90_000)
    assert now() == 90_000.0


@pytest.mark.virtual
async def test_far_future() -> None:
    """A timer fires although its time is too large to be told from the next nanosecond."""
    await asyncio.sleep(1e8)
    await asyncio.sleep(0.1)
    await asyncio.sleep(1e-10)
    assert now() == pytest.approx(1e8 + 0.1)


@pytest.mark.virtual
async def test_concurrent_timers() -> None:
    """Timers fire in the order of their times, each at its own time."""
    journal = Journal()

    async def wait(seconds: float) -> None:
        await asyncio.sleep(seconds)
        journal.add((seconds, now()))

    await asyncio.gather(wait(3), wait(1), wait(2))
    assert journal.events == [(1, 1.0), (2, 2.0), (3, 3.0)]


@pytest.mark.virtual
async def test_timeout() -> None:
    """A timeout ends a wait that has no end of its own."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(5):
            await asyncio.Event().wait()
    assert now() == 5.0


@pytest.mark.virtual
async def test_own_sockets() -> None:
    """Input that has arrived is handled before the clock moves."""
    left, right = socket.socketpair()
    with left, right:
        right.setblocking(False)
        receiving = asyncio.create_task(asyncio.get_running_loop().sock_recv(right, 1))
        await asyncio.sleep(0)
        left.send(b"!")
        async with asyncio.timeout(1):
            assert await receiving == b"!"
    assert now() == 0.0


@pytest.mark.virtual
async def test_executor_job_holds_the_clock() -> None:
    """No timer fires while a job runs that was given to an executor."""
    release = threading.Event()
    loop = virtual_loop()
    default = loop.busy

    def look() -> bool:
        """End the job when the loop looks, so after it could have jumped."""
        release.set()
        return default()

    loop.busy = look
    async with asyncio.timeout(1):
        assert await asyncio.to_thread(release.wait)
    assert now() == 0.0


@pytest.mark.virtual
async def test_own_thread_holds_the_clock() -> None:
    """No timer fires while `busy` says that a thread is at work, whatever its pool."""
    loop = virtual_loop()
    looked = threading.Event()
    result = loop.create_future()

    def work() -> None:
        looked.wait()
        loop.call_soon_threadsafe(result.set_result, "done")

    thread = threading.Thread(target=work)

    def busy() -> bool:
        looked.set()
        return thread.is_alive()

    loop.busy = busy
    thread.start()
    async with asyncio.timeout(1):
        assert await result == "done"
    assert now() == 0.0
    thread.join()


@pytest.mark.virtual
async def test_thread_that_ends_without_a_word() -> None:
    """The clock moves on after a thread that ends without waking the loop."""
    looked = threading.Event()
    thread = threading.Thread(target=looked.wait)

    def busy() -> bool:
        looked.set()
        return thread.is_alive()

    virtual_loop().busy = busy
    thread.start()
    await asyncio.sleep(1)
    assert not thread.is_alive()


@pytest.mark.virtual
async def test_thread_given_to_hold_while() -> None:
    """What is given to `hold_while` counts beside what the loop knows of itself."""
    loop = virtual_loop()
    looks: list[float] = []

    def busy() -> bool:
        looks.append(now())
        return len(looks) < 3

    loop.hold_while(lambda: False)
    loop.hold_while(busy)
    assert await asyncio.to_thread(max, 1, 2) == 2
    await asyncio.sleep(1)
    assert len(looks) >= 3
    assert set(looks) == {0.0}


@pytest.mark.virtual
@pytest.mark.parametrize("options", [{}, {"run_in": "thread"}, {"timeout": 1}])
async def test_thread_of_a_scope_holds_the_clock(options: Any) -> None:
    """No timer fires while a plain function of a scope runs, and nobody has to say so."""
    release = threading.Event()

    def look() -> bool:
        """End the function when the loop looks, so after it could have jumped."""
        release.set()
        return False

    virtual_loop().hold_while(look)
    async with TaskScope() as scope:
        async with asyncio.timeout(1):
            assert await scope.task(**options).schedule(release.wait)
        assert now() == 0.0
        await scope.task(delay=5).schedule(max, 1, 2)
        assert now() == 5.0
        await asyncio.sleep(5)  # idle threads hold nothing
        assert now() == 10.0


@pytest.mark.virtual
async def test_queue_for_the_threads_of_a_scope_holds_the_clock() -> None:
    """Functions that wait for a free thread, and tasks that they schedule, hold the clock too."""
    done = Journal()

    def work(number: int) -> None:
        scope.schedule(asyncio.sleep, 1)
        done.add((number, now_in_thread()))

    now_in_thread = asyncio.get_running_loop().time
    async with TaskScope(threads=2) as scope:
        for number in range(20):
            scope.schedule(work, number)
        await scope.wait_idle()
        assert now() == 1.0
    assert set(done.events) == {(number, 0.0) for number in range(20)}


@pytest.mark.virtual
async def test_thread_wakes_the_loop_before_it_is_idle() -> None:
    """Whenever a worker ends, the loop has its answer before the clock could jump."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        async with TaskScope(threads=4) as scope:
            for _ in range(300):
                async with asyncio.timeout(1):
                    assert await scope.schedule(max, 1, 2) == 2
    finally:
        sys.setswitchinterval(interval)
    assert now() == 0.0


@pytest.mark.virtual
async def test_stuck_thread() -> None:
    """A thread that is declared not busy does not hold up a timeout."""
    virtual_loop().busy = lambda: False
    release = threading.Event()
    try:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await asyncio.to_thread(release.wait)
        assert now() == 5.0
    finally:
        release.set()


@pytest.mark.virtual
async def test_cancelled_job() -> None:
    """A job that nobody waits for any more does not hold the clock."""
    release = threading.Event()
    job = asyncio.create_task(asyncio.to_thread(release.wait))
    try:
        await asyncio.sleep(0)
        job.cancel()
        await asyncio.sleep(5)
        assert job.cancelled()
    finally:
        release.set()


def test_end_of_the_default_executor() -> None:
    """Its threads are joined at the end, and the limit on that does not pass at once."""
    threads: list[threading.Thread] = []
    run_virtual(asyncio.to_thread(lambda: threads.append(threading.current_thread())))
    assert not threads[0].is_alive()


def test_nothing_left_to_wait_for() -> None:
    """Instead of hanging, the loop raises an error that names who waits, and says what to do."""

    async def wait_for_ever() -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        await asyncio.sleep(2)
        async with asyncio.TaskGroup() as group:
            group.create_task(wait_for_ever(), name="left-alone")

    with pytest.raises(RuntimeError, match=r"(?s)stopped at 2\.0 s.*give a 'busy'.*left-alone"):
        run_virtual(main)


def test_timer_that_repeats_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that would run for ever gives up as well, but goes on for the clean-up."""
    monkeypatch.setattr("taskcore._clock._MOST_JUMPS", 100)
    journal = Journal()

    async def main() -> None:
        try:
            await asyncio.sleep(math.inf)
        finally:
            await asyncio.sleep(1)
            journal.add("cleaned up")

    with pytest.raises(RuntimeError, match="a timer repeats for ever"):
        run_virtual(main)
    assert journal.events == ["cleaned up"]


def test_run_virtual_result() -> None:
    """An async function and a coroutine are run alike, and their result is returned."""

    async def main() -> float:
        await asyncio.sleep(7)
        return now()

    assert run_virtual(main) == 7.0
    assert run_virtual(main()) == 7.0


def test_run_virtual_error() -> None:
    """The error of the coroutine reaches the caller."""

    async def main() -> None:
        raise KeyError("lost")

    with pytest.raises(KeyError, match="lost"):
        run_virtual(main)


def test_run_virtual_busy() -> None:
    """`busy` is given to the loop."""
    looks: list[bool] = []

    def busy() -> bool:
        looks.append(True)
        return len(looks) < 3

    run_virtual(asyncio.sleep(1), busy=busy)
    assert len(looks) == 3
