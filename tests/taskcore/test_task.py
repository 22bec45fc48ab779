"""The handle of a task: what it tells, how it is awaited, cancelled, and let go."""

from __future__ import annotations

import asyncio
import gc
import threading
import traceback
import weakref
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any

import pytest

from taskcore import Task, TaskConfig, TaskScope, TaskState, current_task
from taskcore._run import EAGER
from taskcore._state import FINAL
from taskcore.errors import (
    TaskCancelledError,
    TaskcoreError,
    TaskNotFinishedError,
    TaskSkippedError,
    WrongLoopError,
)
from tests.helpers import Journal, cancel_at_every_await


async def add(x: int, y: int = 1) -> int:
    return x + y


async def boom() -> None:
    raise ValueError("boom")


def boom_in_thread() -> None:
    raise ValueError("boom")


in_context: ContextVar[Task[..., Any] | None] = ContextVar("in_context", default=None)


async def boom_in_context() -> None:
    in_context.set(current_task())
    raise ValueError("boom")


# -- what it tells ------------------------------------------------------------------------


async def test_facts_of_a_handle() -> None:
    """A handle has the function, its arguments, the settings in force, a name and an id."""
    async with TaskScope(config=TaskConfig(timeout=5)) as scope:
        task = scope.schedule(add, 1, y=2)
        later = scope.task(name="sum").schedule(add, 1)
        assert task.func is add
        assert (task.args, task.kwargs) == ((1,), {"y": 2})
        assert later.kwargs == {}
        assert task.config == TaskConfig(timeout=5)
        assert (task.name, later.name) == ("add", "sum")
        assert later.id != task.id


async def test_repr_hides_arguments() -> None:
    """I3: the repr of a task names it and never shows its arguments."""
    async with TaskScope() as scope:
        task = scope.schedule(add, 987654321, y=123456789)
        assert repr(task) == f"<Task 'add' id={task.id} scheduled>"
        await task
        assert repr(task) == f"<Task 'add' id={task.id} succeeded>"


async def test_success() -> None:
    """The result of the function is what awaiting gives, as often as one likes."""
    async with TaskScope() as scope:
        task = scope.schedule(add, 1, y=2)
        assert await task == await task == task.result() == 3
        assert task.exception() is None
        assert (task.state, task.done(), task.cancelled()) == (TaskState.SUCCEEDED, True, False)


async def test_failure() -> None:
    """Awaiting raises the very exception of the function; `wait` never does."""
    async with TaskScope(config=TaskConfig(on_error=ignore)) as scope:
        task = scope.schedule(boom)
        await task.wait()
        with pytest.raises(ValueError, match="boom") as caught:
            await task
        assert caught.value is task.exception()
        with pytest.raises(ValueError, match="boom"):
            task.result()
        assert (task.state, task.done(), task.cancelled()) == (TaskState.FAILED, True, False)


async def test_outcome_is_there_when_the_state_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that sees that a task has ended finds what came of it."""
    state: Any = Task.__dict__["_state"]
    found: list[bool] = []

    def assign(task: Task[..., Any], new: TaskState) -> None:
        if new in FINAL:
            found.append(hasattr(task, "_outcome"))
        state.__set__(task, new)

    monkeypatch.setattr(Task, "_state", property(state.__get__, assign))
    async with TaskScope() as scope:
        scope.schedule(asyncio.sleep, 0)
        scope.task(on_error=lambda task, error: None).schedule(int, "no number")
    assert found == [True, True]


async def test_unfinished() -> None:
    """A result that is asked for too early is refused, and the message says to await."""
    async with TaskScope() as scope:
        task = scope.schedule(add, 1)
        assert not task.done()
        with pytest.raises(TaskNotFinishedError, match="'await task' waits for its result"):
            task.result()
        with pytest.raises(asyncio.InvalidStateError, match=r"'add' .* is scheduled"):
            task.exception()


async def test_cancelled() -> None:
    """The result of a cancelled task is an error that asyncio takes for a cancellation."""
    async with TaskScope() as scope:
        task = scope.task(name="nap").schedule(asyncio.Event().wait)
        await task.started.wait()
        assert task.cancel()
        await task.wait()
        for ask in (task.result, task.exception):
            with pytest.raises(TaskCancelledError, match=r"task 'nap' .* was cancelled"):
                ask()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (task.state, task.done(), task.cancelled()) == (TaskState.CANCELLED, True, True)
        assert not task.cancel()


async def test_skipped() -> None:
    """T6: awaiting a skipped task raises an error that says how to run it in any case."""
    async with TaskScope() as scope:
        async with scope.lifecycle("end") as unit:
            task = unit.phase("end").task(when="failure").schedule(add, 1)
        assert (task.state, task.done(), task.cancelled()) == (TaskState.SKIPPED, True, False)
        for ask in (task.result, task.exception):
            with pytest.raises(TaskSkippedError, match=r"task\(when='always'\) to run it"):
                ask()
        with pytest.raises(TaskcoreError):
            await task


# -- started ------------------------------------------------------------------------------


async def test_started() -> None:
    """`started` is set when the function begins, and stays set."""
    release = asyncio.Event()
    async with TaskScope() as scope:
        task = scope.schedule(release.wait)
        assert not task.started.is_set()
        assert await task.started.wait()
        assert task.started.is_set()
        assert task.state is TaskState.RUNNING
        release.set()
        await task
        assert task.started.is_set()
        assert await task.started.wait()


async def test_started_in_thread() -> None:
    """Whoever waits for the start of a plain function is woken while it runs."""
    release = threading.Event()
    async with TaskScope() as scope:
        task = scope.schedule(release.wait)
        assert await task.started.wait()
        assert task.state is TaskState.RUNNING
        release.set()


async def test_never_started() -> None:
    """Waiting for the start of a task that ends without one gives false."""
    async with TaskScope(limit=1) as scope:
        running = scope.schedule(asyncio.Event().wait)
        task = scope.schedule(add, 1)
        waiting = asyncio.create_task(task.started.wait())
        await asyncio.sleep(0)
        task.cancel()
        assert await waiting is False
        assert not task.started.is_set()
        running.cancel()


async def test_started_while_one_sets_out_to_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever sets out to wait for a start just as a thread begins does not miss it."""
    free, begun, end = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        end.wait()

    def let_it_begin(task: Task[..., Any]) -> asyncio.Future[None]:
        free.set()
        begun.wait()
        return new_waiter(task)

    async with TaskScope(threads=1) as scope:
        blocker, task = scope.schedule(free.wait), scope.schedule(work)
        await blocker.started.wait()
        new_waiter = Task[..., Any]._new_waiter
        monkeypatch.setattr(Task, "_new_waiter", let_it_begin)
        assert await task.started.wait()
        assert not task.done()
        end.set()


# -- waiting ------------------------------------------------------------------------------


async def test_cancelled_waiter_leaves_the_task_alone() -> None:
    """Cancelling whoever awaits a task does not cancel the task, at no await of theirs."""
    release = asyncio.Event()
    async with TaskScope() as scope:
        task = scope.schedule(release.wait)

        async def wait_all() -> None:
            await task.started.wait()
            await task.wait()

        async def wait_and_release() -> None:
            asyncio.get_running_loop().call_soon(release.set)
            await wait_all()

        outcomes = [await cancel_at_every_await(wait_and_release)]
        assert outcomes
        assert await task is True


async def test_waiters_are_let_go() -> None:
    """A task keeps nothing of those who waited for it and were cancelled."""
    async with TaskScope() as scope:
        task = scope.schedule(asyncio.Event().wait)
        await task.started.wait()
        waiter = asyncio.create_task(task.wait())
        gone = weakref.ref(waiter)
        await asyncio.sleep(0)
        waiter.cancel()
        await asyncio.wait([waiter])
        del waiter
        await asyncio.sleep(0)
        gc.collect()
        assert gone() is None
        task.cancel()


async def test_many_waiters() -> None:
    """Everyone who waits is woken, and told the same."""
    release = asyncio.Event()
    async with TaskScope() as scope:
        task = scope.schedule(release.wait)
        waiters = [asyncio.create_task(task.wait()) for _ in range(3)]
        starters = [asyncio.create_task(task.started.wait()) for _ in range(3)]
        assert await asyncio.gather(*starters) == [True] * 3
        release.set()
        await asyncio.gather(*waiters)
        assert await task is True


async def test_task_that_awaits_itself() -> None:
    """I7: a task that awaits its own handle is refused instead of waiting for ever."""
    own: list[Task[..., Any]] = []

    async def await_self() -> None:
        await own[0]

    async with TaskScope(config=TaskConfig(on_error=ignore)) as scope:
        own.append(scope.schedule(await_self))
        with pytest.raises(RuntimeError, match="schedule another task that does"):
            await own[0]


async def test_handle_on_another_loop() -> None:
    """I7: waiting for a task on another event loop than its own is refused at the call."""
    async with TaskScope() as scope, scope.lifecycle("end") as unit:
        task = unit.phase("end").schedule(add, 1)

        def wait_elsewhere(wait: Callable[[], Coroutine[Any, Any, Any]]) -> None:
            with pytest.raises(WrongLoopError, match="wait for it where its scope lives"):
                asyncio.run(wait())

        await asyncio.to_thread(wait_elsewhere, task.wait)
        await asyncio.to_thread(wait_elsewhere, task.started.wait)


# -- cancel -------------------------------------------------------------------------------


async def test_cancel_before_the_next_turn() -> None:
    """A task that is cancelled before it began never begins."""
    journal = Journal()

    async def begin() -> None:
        journal.add("begun")

    async with TaskScope() as scope:
        task = scope.schedule(begin)
        assert task.cancel()
        await task.wait()
        assert task.cancelled()
    assert journal.events == []


async def test_cancel_from_a_thread() -> None:
    """I8: a handle may be cancelled from any thread."""
    async with TaskScope() as scope:
        task = scope.schedule(asyncio.Event().wait)
        await task.started.wait()
        assert await asyncio.to_thread(task.cancel)
        await task.wait()
        assert task.cancelled()
        assert not await asyncio.to_thread(task.cancel)


async def test_cancel_swallowed_by_the_function() -> None:
    """A function that handles its cancellation and returns has succeeded."""

    async def stubborn() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "saved"
        return "released"

    async with TaskScope() as scope:
        task = scope.schedule(stubborn)
        await task.started.wait()
        task.cancel()
        assert await task == "saved"
        assert task.state is TaskState.SUCCEEDED


async def test_cancel_that_comes_when_the_function_has_returned() -> None:
    """A task cancelled by what it completed last has finished, and says so."""
    async with TaskScope() as scope:
        handles: list[Task[..., Any]] = []

        async def cancel_self() -> str:
            assert handles[0].cancel()
            return "done"

        handles.append(scope.schedule(cancel_self))
        assert await handles[0] == "done"


async def test_cancelled_task_awaited_by_another() -> None:
    """A task that lets through the cancellation of one it awaited has failed, not stopped."""
    seen: list[BaseException] = []

    async def note(task: Task[..., Any], error: BaseException) -> None:
        seen.append(error)

    async with TaskScope(config=TaskConfig(on_error=note)) as scope:
        awaited = scope.schedule(asyncio.Event().wait)

        async def await_it() -> None:
            await awaited

        task = scope.schedule(await_it)
        await task.started.wait()
        awaited.cancel()
        await task.wait()
        assert task.state is TaskState.FAILED
        assert [type(error) for error in seen] == [TaskCancelledError]


@pytest.mark.skipif(EAGER, reason="from Python 3.12 on, no asyncio task is there before it began")
@pytest.mark.parametrize("options", [{}, {"timeout": 5.0}], ids=["bare", "configured"])
async def test_outside_cancellation_before_it_began(options: dict[str, Any]) -> None:
    """A task whose asyncio task is cancelled by an outsider before it began is cancelled."""
    journal = Journal()

    async def begin() -> None:
        journal.add("begun")

    before = asyncio.all_tasks()
    async with TaskScope(limit=1) as scope:
        task = scope.task(**options).schedule(begin)
        waiting = scope.task(**options).schedule(add, 1)
        for runner in asyncio.all_tasks() - before:
            runner.cancel()
            runner.cancel()
        await task.wait()
        assert (task.state, task.started.is_set()) == (TaskState.CANCELLED, False)
        assert await waiting == 2
    assert journal.events == []


async def test_outside_cancellation_while_it_runs() -> None:
    """A task whose asyncio task is cancelled by an outsider while it runs is cancelled."""
    before = asyncio.all_tasks()
    async with TaskScope() as scope:
        task = scope.schedule(asyncio.Event().wait)
        await task.started.wait()
        for runner in asyncio.all_tasks() - before:
            runner.cancel()
        await task.wait()
        assert task.cancelled()


async def test_outside_cancellation_when_it_has_ended() -> None:
    """I1: who kept the asyncio task of a task that has ended may cancel it, to no effect."""

    async def run() -> asyncio.Task[Any] | None:
        return asyncio.current_task()

    async with TaskScope() as scope:
        task = scope.schedule(run)
        runner = await task
        assert runner is not None
        assert not runner.cancel()
        assert task.state is TaskState.SUCCEEDED


def test_loop_that_ends_before_its_tasks() -> None:
    """A task whose loop was closed under it is abandoned once its coroutine is destroyed."""
    handles: list[Task[..., Any]] = []

    async def main() -> None:
        scope = await TaskScope().__aenter__()
        handles.append(scope.schedule(asyncio.Event().wait))
        await handles[0].started.wait()
        (runner,) = asyncio.all_tasks() - {asyncio.current_task()}
        runner._log_destroy_pending = False  # type: ignore[attr-defined]  # known, see above

    loop = asyncio.new_event_loop()
    loop.run_until_complete(main())
    loop.close()
    del loop
    left: list[asyncio.Task[Any]] = [at for at in gc.get_objects() if isinstance(at, asyncio.Task)]
    (runner,) = (task for task in left if not task.done())
    runner.get_coro().close()
    assert handles[0].state is TaskState.ABANDONED


# -- letting go ---------------------------------------------------------------------------


class Payload:
    """Something whose end can be seen."""


async def keep(payload: Payload) -> None:
    pass


def keep_in_thread(payload: Payload) -> None:
    pass


@pytest.mark.parametrize("func", [keep, keep_in_thread])
async def test_finished_task_is_not_held(func: Callable[[Payload], Any]) -> None:
    """I6: a finished task, and what it was given, goes with its last handle."""
    async with TaskScope(threads=1) as scope:
        payload = Payload()
        task = scope.schedule(func, payload)
        gone = weakref.ref(task), weakref.ref(payload)
        await task
        del task, payload
        await settle_thread(scope)
        assert [ref() for ref in gone] == [None, None]


async def test_finished_task_is_not_held_until_the_next_has_begun() -> None:
    """I6: what a task returned is gone when the one that begins after it begins."""
    results: list[weakref.ref[Payload]] = []
    held: list[bool] = []

    async def run() -> Payload:
        held.extend(result() is not None for result in results)
        results.append(weakref.ref(payload := Payload()))
        return payload

    async with TaskScope() as scope:
        for _ in range(3):
            scope.schedule(run)
    assert held == [False] * 3


async def once(func: Callable[..., Coroutine[Any, Any, Any]], *args: Any) -> Any:
    return await func(*args)


@pytest.mark.parametrize("turns", [0, 1])
@pytest.mark.parametrize("options", [{}, {"timeout": 60.0}, {"retry": once}, {"name": "named"}])
async def test_finished_task_is_not_held_by_an_error_that_it_caught(
    options: dict[str, Any], turns: int
) -> None:
    """I6, C3: an error that a function caught and returned leads back to no task, nor a cycle."""

    async def run() -> Exception:
        for _ in range(turns):
            await asyncio.sleep(0)
        try:
            raise ValueError
        except ValueError as error:
            return error

    async with TaskScope() as scope:
        task = scope.task(**options).schedule(run)
        error = await task
        gone = weakref.ref(task)
        del task
        await asyncio.sleep(0)
        assert error.__traceback__ is not None
        assert gone() is None


async def test_finished_shielded_task_is_not_held_by_what_it_scheduled() -> None:
    """I6: what a shielded task schedules has its context, and does not keep it."""
    release = asyncio.Event()

    async def schedule_another(payload: Payload) -> None:
        scope.schedule(release.wait)

    async with TaskScope() as scope:
        payload = Payload()
        task = scope.task(shield=True).schedule(schedule_another, payload)
        gone = weakref.ref(task), weakref.ref(payload)
        await task
        del task, payload
        assert scope.statistics().running + scope.statistics().scheduled == 1
        assert [ref() for ref in gone] == [None, None]
        release.set()


async def test_running_task_is_held() -> None:
    """I6: a running task needs no handle to go on, whatever the collector does."""
    release = asyncio.Event()
    journal = Journal()

    async def run() -> None:
        await release.wait()
        journal.add("done")

    async with TaskScope() as scope:
        scope.schedule(run)
        await asyncio.sleep(0)
        gc.collect()
        release.set()
    assert journal.events == ["done"]


async def test_cancelled_deferred_task_is_not_held() -> None:
    """I6: a deferred task that was cancelled is not held by the phase it waited for."""
    async with TaskScope() as scope, scope.lifecycle("end") as unit:
        payload = Payload()
        task = unit.phase("end").schedule(keep, payload)
        gone = weakref.ref(task), weakref.ref(payload)
        task.cancel()
        del task, payload
        assert [ref() for ref in gone] == [None, None]


async def test_cancelled_waiting_task_is_not_held() -> None:
    """I6: a waiting task that was cancelled is not held by the queue it waited in."""
    async with TaskScope(limit=1) as scope:
        running = scope.schedule(asyncio.Event().wait)
        payload = Payload()
        task = scope.schedule(keep, payload)
        gone = weakref.ref(task), weakref.ref(payload)
        task.cancel()
        del task, payload
        assert [ref() for ref in gone] == [None, None]
        running.cancel()


@pytest.mark.parametrize("own", [True, False], ids=["own threads", "an executor"])
async def test_cancelled_task_is_not_held_by_busy_threads(own: bool) -> None:
    """I6: a function that was cancelled before a thread was free is not held until one is."""
    release = threading.Event()
    with ThreadPoolExecutor(1) as threads:
        async with TaskScope(threads=1) as scope:
            target = scope.task(run_in="thread" if own else threads)
            blocking = target.schedule(release.wait)
            await blocking.started.wait()
            payload = Payload()
            task = target.schedule(keep_in_thread, payload)
            gone = weakref.ref(task), weakref.ref(payload)
            await asyncio.sleep(0)
            task.cancel()
            await task.wait()
            await asyncio.sleep(0)
            assert task.cancelled()
            del task, payload
            held = [ref() for ref in gone]
            release.set()
    assert held == [None, None]


async def again(func: Callable[..., Any], *args: Any) -> Any:
    """A retry that shows what was tried before."""
    try:
        return await func(*args)
    except ValueError:
        return await func(*args)


@pytest.mark.parametrize(
    "options",
    [{}, {"timeout": 60.0}, {"retry": again, "limiter": asyncio.Semaphore()}],
    ids=["bare", "configured", "retried"],
)
@pytest.mark.parametrize(
    "func", [keep, keep_in_thread, boom, boom_in_thread, boom_in_context, asyncio.Event.wait]
)
async def test_tasks_leave_no_cycle(func: Callable[..., Any], options: dict[str, Any]) -> None:
    """C3: tasks that succeed, fail or are cancelled leave the cycle collector nothing."""
    async with TaskScope(threads=1, config=TaskConfig(on_error=ignore)) as scope:
        await run_some(scope, func, options)  # what is made once, such as threads
        await settle_thread(scope)
        gc.collect()
        gc.disable()
        try:
            await run_some(scope, func, options)
            await settle_thread(scope)
            found = gc.collect()
        finally:
            gc.enable()
    assert found == 0


async def run_some(scope: TaskScope, func: Callable[..., Any], options: dict[str, Any]) -> None:
    """Run tasks to their ends, and await their handles, as users do."""
    for _ in range(3):
        args = {
            keep: (Payload(),),
            keep_in_thread: (Payload(),),
            asyncio.Event.wait: (asyncio.Event(),),
        }.get(func, ())
        task = scope.task(**options).schedule(func, *args)
        await task.started.wait()
        if func is asyncio.Event.wait:
            task.cancel()
        try:
            await task
        except (ValueError, TaskCancelledError):
            pass
        finally:
            del task  # or this frame, which the traceback holds, would make a cycle


async def test_awaiting_a_failed_task_again() -> None:
    """The traceback of a failed task shows the one who awaits it, not all who ever did."""
    async with TaskScope(config=TaskConfig(on_error=ignore)) as scope:
        task = scope.schedule(boom)
        lengths: list[int] = []
        for _ in range(3):
            with pytest.raises(ValueError, match="boom") as caught:
                await task
            lengths.append(len(traceback.extract_tb(caught.value.__traceback__)))
        assert lengths[0] == lengths[1] == lengths[2]


async def ignore(task: Task[..., Any], error: BaseException) -> None:
    pass


async def settle_thread(scope: TaskScope) -> None:
    """Give the one worker thread another function, so that it lays down the last one."""
    await scope.schedule(do_nothing)


def do_nothing() -> None:
    pass


def test_made_by_hand() -> None:
    """I7: a task is made by `schedule` alone, and the error says so."""
    with pytest.raises(TypeError, match=r"schedule\(function, ...\) returns one"):
        Task()
