"""The shield: what it holds against, what it does not, and what works inside it."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from taskcore import ScopeState, TaskScope, TaskState
from taskcore._clock import VirtualClockLoop
from taskcore.errors import TaskCancelledError
from tests.conftest import LOOPS
from tests.helpers import Journal


async def hang() -> None:
    await asyncio.Event().wait()


async def cancel_listed() -> None:
    """Cancel what asyncio lists, as the clean-ups of `asyncio.run` and of servers do."""
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
    await asyncio.sleep(0)


# -- what it holds against --------------------------------------------------------------------


async def test_shielded_task_is_not_listed() -> None:
    """S2: asyncio lists a task as long as it is not shielded."""
    async with TaskScope(grace_period=0, shield_timeout=0) as scope:
        before = asyncio.all_tasks()
        scope.schedule(hang)
        await asyncio.sleep(0)
        assert len(asyncio.all_tasks() - before) == 1
        scope.task(shield=True).schedule(hang)
        await asyncio.sleep(0)
        assert len(asyncio.all_tasks() - before) == 1
        await scope.drain()


async def test_shielded_task_is_not_listed_when_the_one_that_opened_its_scope_has_ended() -> None:
    """S2: a scope may outlive the shielded task in which it was entered; its own shields hold."""
    inner = TaskScope(grace_period=0, shield_timeout=0)

    async def enter() -> None:
        await inner.__aenter__()
        inner.schedule(hang)
        inner.task(shield=True).schedule(hang)

    async with TaskScope() as scope:
        before = asyncio.all_tasks()
        await scope.task(shield=True).schedule(enter)
        await asyncio.sleep(0)
        assert len(asyncio.all_tasks() - before) == 1
        await inner.drain()


async def test_clean_up_of_leftover_tasks() -> None:
    """S2: whoever cancels every task that asyncio lists does not reach a shielded one."""
    release = asyncio.Event()

    async def work() -> str:
        await release.wait()
        return "done"

    async with TaskScope() as scope:
        plain = scope.schedule(work)
        shielded = scope.task(shield=True).schedule(work)
        await asyncio.sleep(0)
        for _ in range(3):
            for runner in asyncio.all_tasks() - {asyncio.current_task()}:
                if "work" in repr(runner):
                    runner.cancel()
            await asyncio.sleep(0)
        release.set()
        assert (await shielded, plain.cancelled()) == ("done", True)


class Interrupt(KeyboardInterrupt):
    """Ctrl-C, at a moment of the test's choice."""


def interrupt() -> None:
    raise Interrupt


def run_interrupted(main: Callable[[], Awaitable[None]], at: Sequence[float]) -> None:
    """Run as `asyncio.run` does, with Ctrl-C at these times.

    The first of several cancels `main`; the last one ends the loop's run, and begins the
    clean-up of what is left.
    """

    async def run() -> None:
        task = asyncio.current_task()
        assert task is not None
        for seconds in at[:-1]:
            asyncio.get_running_loop().call_later(seconds, task.cancel)
        asyncio.get_running_loop().call_later(at[-1], interrupt)
        await main()

    with pytest.raises(Interrupt), asyncio.Runner(loop_factory=VirtualClockLoop) as runner:
        runner.run(run())


@pytest.mark.parametrize("at", [[5], [5, 8], [5, 6, 8]])
def test_clean_up_of_asyncio_run(at: list[float]) -> None:
    """S2: the clean-up of `asyncio.run` after Ctrl-C waits for shielded tasks, to their end."""
    journal = Journal()

    async def work(name: str) -> None:
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            journal.add(f"{name} cancelled")
            raise
        journal.add(f"{name} done")

    async def main() -> None:
        try:
            async with TaskScope(grace_period=2, shield_timeout=20) as scope:
                scope.schedule(work, "plain")
                scope.task(shield=True).schedule(work, "shielded")
                await hang()
        finally:
            journal.add("block ended")

    run_interrupted(main, at)
    assert journal.events == ["plain cancelled", "shielded done", "block ended"]


@pytest.mark.parametrize("spawn", ["gather", "group", "create", "scope", "scopes"])
def test_children_of_a_shielded_task(spawn: str) -> None:
    """S2: the clean-up of `asyncio.run` spares the asyncio tasks that a shielded task started."""
    journal = Journal()

    async def child() -> None:
        await asyncio.sleep(10)
        journal.add("child done")

    async def in_another() -> None:
        async with TaskScope() as innermost:
            await innermost.schedule(twice)

    async def twice() -> None:
        await asyncio.gather(child(), child())

    async def work() -> None:
        if spawn == "gather":
            await asyncio.gather(child(), child())
        elif spawn == "group":
            async with asyncio.TaskGroup() as group:
                group.create_task(child())
                group.create_task(child())
        elif spawn == "scope":
            async with TaskScope() as inner:
                inner.schedule(child)
                inner.task(timeout=60).schedule(child)
        elif spawn == "scopes":
            async with TaskScope() as inner:
                await inner.schedule(in_another)
        else:
            children = [asyncio.create_task(child()) for _ in range(2)]
            await asyncio.wait(children)
        journal.add("work done")

    async def main() -> None:
        async with TaskScope(grace_period=2, shield_timeout=20) as scope:
            scope.task(shield=True).schedule(work)
            await hang()

    run_interrupted(main, at=[5, 6])
    assert journal.events == ["child done", "child done", "work done"]


@pytest.mark.virtual
async def test_cancelled_drainers() -> None:
    """S2: whoever awaits the drain can be cancelled; a shielded task does not notice."""
    async with TaskScope(grace_period=1, shield_timeout=50) as scope:
        shielded = scope.task(shield=True).schedule(asyncio.sleep, 20, "done")
        for _ in range(3):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(scope.drain(), 2)
        assert scope.state is ScopeState.CANCELLING
        await cancel_listed()
        assert await shielded == "done"
    assert asyncio.get_running_loop().time() == 20.0


async def test_cancelled_waiter() -> None:
    """S2: cancelling whoever awaits the handle leaves the task alone."""
    release = asyncio.Event()
    async with TaskScope() as scope:
        task = scope.task(shield=True).schedule(release.wait)

        async def wait() -> None:
            await task

        waiter = asyncio.create_task(wait())
        await asyncio.sleep(0)
        waiter.cancel()
        await asyncio.wait([waiter])
        assert not task.done()
        release.set()
        assert await task


# -- what it does not hold against --------------------------------------------------------------


@pytest.mark.parametrize("begun", [False, True])
async def test_cancel_by_the_handle(begun: bool) -> None:
    """S2: `task.cancel()` reaches a shielded task, begun or not."""
    async with TaskScope() as scope:
        task = scope.task(shield=True).schedule(hang)
        if begun:
            assert await task.started.wait()
        assert task.cancel()
        with pytest.raises(TaskCancelledError):
            await task
        assert (task.state, task.started.is_set()) == (TaskState.CANCELLED, begun)


async def test_cancel_from_a_thread() -> None:
    """S2: `task.cancel()` reaches a shielded task from another thread as well."""
    async with TaskScope() as scope:
        task = scope.task(shield=True).schedule(hang)
        await task.started.wait()
        thread = threading.Thread(target=task.cancel)
        thread.start()
        thread.join()
        await task.wait()
        assert task.cancelled()


@pytest.mark.virtual
async def test_deadline() -> None:
    """S2: at its deadline a shielded task is cancelled, and may clean up."""
    journal = Journal()

    async def work() -> None:
        try:
            await hang()
        finally:
            await asyncio.sleep(0.5)
            journal.add(asyncio.get_running_loop().time())

    async with TaskScope(grace_period=2, shield_timeout=3) as scope:
        task = scope.task(shield=True).schedule(work)
        await scope.drain()
        assert (task.cancelled(), journal.events) == (True, [5.5])


async def test_shield_taken_back() -> None:
    """`shield=False` takes back what the scope's config sets."""
    async with TaskScope(grace_period=0, shield_timeout=None) as scope:
        shielded = scope.task(shield=True)
        assert shielded.task(shield=False).config.shielded is False
        task = shielded.task(shield=False).schedule(hang)
        await task.started.wait()
        await scope.drain()
        assert task.cancelled()


# -- inside of it ---------------------------------------------------------------------------


@pytest.mark.virtual
async def test_own_timeouts_and_groups() -> None:
    """S2: `asyncio.timeout` and `TaskGroup` cancel inside a shielded task as everywhere."""

    async def time_out() -> str:
        try:
            async with asyncio.timeout(1):
                await hang()
        except TimeoutError:
            await asyncio.sleep(1)
            return "timed out"
        return "not reached"

    async def group() -> str:
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(hang())
                tasks.create_task(asyncio.wait_for(hang(), 1))
        except* TimeoutError:
            await asyncio.sleep(1)
        return "group ended"

    async with TaskScope(grace_period=0, shield_timeout=20) as scope:
        tasks = [scope.task(shield=True).schedule(work) for work in (time_out, group)]
        report = await scope.drain()
        assert [task.result() for task in tasks] == ["timed out", "group ended"]
        assert [entry.duration for entry in report.succeeded] == [2.0, 2.0]


@pytest.mark.virtual
async def test_handler_retry_and_timeout_are_inside() -> None:
    """S2: timeouts, retries and the error handler of a shielded task are shielded with it."""
    journal = Journal()

    async def work() -> None:
        journal.add("attempt")
        await hang()

    async def retry(func: Callable[[], Awaitable[Any]]) -> Any:
        for _ in range(2):
            try:
                return await func()
            except TimeoutError:
                await asyncio.sleep(1)
        return await func()

    async def handle(task: object, error: Exception) -> None:
        await asyncio.sleep(1)
        journal.add((type(error).__name__, asyncio.get_running_loop().time()))

    async with TaskScope(grace_period=0, shield_timeout=20) as scope:
        options = scope.task(shield=True, timeout=1, retry=retry, on_error=handle)
        task = options.schedule(work)
        await asyncio.sleep(0)
        drain = asyncio.create_task(scope.drain())
        for _ in range(5):
            await asyncio.sleep(1)
            await cancel_listed()
        report = await scope.drain()
        assert drain.cancelled()
        assert (task.state, len(report.failed)) == (TaskState.FAILED, 1)
    assert journal.events == ["attempt", "attempt", "attempt", ("TaskTimeoutError", 6.0)]


@pytest.mark.virtual
async def test_handler_at_the_deadline(caplog: pytest.LogCaptureFixture) -> None:
    """S2: an error handler has the task's deadline; cut short by it, it is logged."""

    async def fail() -> None:
        raise LookupError("lost")

    async def handle(task: object, error: Exception) -> None:
        await hang()

    async with TaskScope(grace_period=1, shield_timeout=2) as scope:
        task = scope.task(shield=True, on_error=handle).schedule(fail)
        report = await scope.drain()
        assert (report.duration, task.state) == (3.0, TaskState.FAILED)
    (record,) = caplog.records
    assert record.getMessage().startswith(f"error handler '{handle.__qualname__}' of task")
    assert f"(id {task.id}" in record.getMessage()


# -- Ctrl-C in real processes -----------------------------------------------------------------

INTERRUPTED = textwrap.dedent(
    """
    import asyncio, logging, signal, sys
    from taskcore import TaskScope

    async def work(name):
        try:
            await asyncio.sleep(0.8)
        except asyncio.CancelledError:
            print(name, "cancelled", flush=True)
            raise
        print(name, "done", flush=True)

    async def main():
        try:
            async with TaskScope(grace_period=0.05, shield_timeout=5) as scope:
                scope.schedule(work, "plain")
                scope.task(shield=True).schedule(work, "shielded")
                print("ready", flush=True)
                await asyncio.sleep(3600)
        finally:
            print("block ended", flush=True)

    # In the background of a script, processes begin with the signal ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    logging.basicConfig(level="ERROR")
    loop_factory = None
    if sys.argv[1] == "uvloop":
        import uvloop
        loop_factory = uvloop.new_event_loop
    try:
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(main())
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    """
)


@pytest.mark.parametrize("times", [1, 2, 3])
@pytest.mark.parametrize("loop", [name for name in LOOPS if name != "eager"])
def test_interrupted_process(loop: str, times: int) -> None:
    """S2: Ctrl-C once or twice loses no shielded task; a third ends the process at once."""
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, loop],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        heard = [process.stdout.readline()]  # the first has been acted upon
        for _ in range(times - 1):
            # Until the loop waits: the signal would else meet whatever code runs just now.
            threading.Event().wait(0.13)
            process.send_signal(signal.SIGINT)
        heard += process.stdout.readlines()
        errors = process.stderr.read()
    assert process.returncode == 0
    assert heard[0] == "plain cancelled\n"
    if times < 3:
        assert heard[1:] == ["shielded done\n", "block ended\n", "interrupted\n"]
        assert errors == ""
    else:
        assert "interrupted\n" in heard
        assert "Exception ignored" not in errors
