"""Help for tests: wait until idle, start what is deferred, record, and run an application."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Generator
from typing import Any

import pytest

from taskcore import (
    DrainReport,
    Lifecycle,
    Task,
    TaskConfig,
    TaskEvent,
    TaskScope,
    TaskState,
    current_scope,
    testing,
)
from taskcore.asgi import TasksMiddleware
from taskcore.errors import (
    BacklogFullError,
    ConfigError,
    ConfigTypeError,
    InvalidCallError,
    NoCurrentScopeError,
    NotIdleError,
    ScopeClosedError,
    TaskSkippedError,
    WrongLoopError,
)
from taskcore.testing import (
    Scheduled,
    record,
    run_deferred,
    running,
    scope_of,
    wait_idle,
    wait_idle_sync,
)
from tests.helpers import Journal, Outcome, cancel_at_every_await

Send = Callable[[Any], Awaitable[None]]
Receive = Callable[[], Awaitable[Any]]


class Problem(Exception):
    """What goes wrong in these tests."""


@pytest.fixture
def journal() -> Journal:
    """Where the test's tasks write down what happens."""
    return Journal()


async def note(journal: Journal, event: object) -> None:
    """Write an event down."""
    journal.add(event)


async def nothing(*args: object, **kwargs: object) -> None:
    """Do nothing."""


async def in_thread(call: Callable[..., Any], *args: Any) -> Any:
    """Call in a thread that is none of the scope's, as a synchronous test does."""
    return await asyncio.to_thread(call, *args)


# -- until it is idle ------------------------------------------------------------------------


async def test_wait_idle_waits_for_all_that_was_accepted(journal: Journal) -> None:
    """Running, waiting and follow-up tasks have ended; those deferred to a phase go on waiting."""

    async def first() -> None:
        scope.schedule(note, journal, "follow-up")

    async with TaskScope(limit=1) as scope:
        unit = scope.lifecycle("later")
        deferred = unit.phase("later").schedule(note, journal, "deferred")
        scope.schedule(first)
        scope.schedule(note, journal, "waiting")
        await wait_idle(scope)
        assert journal.events == ["waiting", "follow-up"]
        assert not deferred.done()
        unit.close()
    assert journal.events[-1] == "deferred"


@pytest.mark.virtual
async def test_wait_idle_waits_for_delays(journal: Journal) -> None:
    """A delayed task is waited for, as long as its delay takes if there is no timeout."""
    async with TaskScope() as scope:
        scope.task(delay=3600).schedule(note, journal, "delayed")
        await wait_idle(scope, timeout=None)
        assert asyncio.get_running_loop().time() == 3600.0
        assert journal.events == ["delayed"]


@pytest.mark.virtual
async def test_wait_idle_names_what_still_runs() -> None:
    """When the time is over, the error names the tasks, their states, and what to do."""
    async with TaskScope(name="app") as scope:
        hanging = scope.task(name="hanging").schedule(asyncio.Event().wait)
        scope.task(name="reminder", delay=60).schedule(nothing)
        with pytest.raises(NotIdleError) as caught:
            await wait_idle(scope)
        assert asyncio.get_running_loop().time() == 5.0
        assert str(caught.value).startswith(
            f"scope 'app' is not idle after 5.0 s, it still has 'hanging' (id {hanging.id}, "
            f"running), 'reminder' (id {hanging.id + 1}, deferred); make them end"
        )
        assert "run_deferred" in str(caught.value)
        assert caught.value.timeout == 5.0
        assert caught.value.tasks == ("hanging", "reminder")
        hanging.cancel()


@pytest.mark.virtual
async def test_wait_idle_names_ten_at_the_most() -> None:
    """A long list is cut in the message, and complete in the attribute."""
    async with TaskScope(grace_period=0) as scope:
        for _ in range(12):
            scope.schedule(asyncio.Event().wait)
        with pytest.raises(NotIdleError, match=r"running\), 2 more; make them end") as caught:
            await wait_idle(scope, timeout=0)
        assert len(caught.value.tasks) == 12
        await scope.drain()


async def test_wait_idle_of_an_idle_scope() -> None:
    """An idle scope is so at once, even without any time to wait."""
    async with TaskScope() as scope:
        await wait_idle(scope, timeout=0)
    await wait_idle(scope, timeout=0)
    wait_idle_sync(scope)  # closed: nothing to wait for, so nothing is blocked


async def test_wait_idle_inside_another_timeout() -> None:
    """A timeout around it is that one's own."""
    async with TaskScope() as scope:
        hanging = scope.schedule(asyncio.Event().wait)
        with pytest.raises(TimeoutError) as caught:
            async with asyncio.timeout(0):
                await wait_idle(scope)
        assert type(caught.value) is TimeoutError
        hanging.cancel()


async def test_wait_idle_cancelled_at_every_await() -> None:
    """Whoever waits may be cancelled; the tasks go on."""

    async def procedure() -> None:
        async with TaskScope() as scope:
            waiting = asyncio.current_task()
            task = scope.schedule(nothing)
            try:
                await wait_idle(scope)
            finally:
                assert waiting is asyncio.current_task()
                await task.wait()
                assert task.state is TaskState.SUCCEEDED

    outcomes = await cancel_at_every_await(procedure)
    assert len(outcomes) > 1


async def test_wait_idle_sync(journal: Journal) -> None:
    """A thread waits for the tasks of the loop."""

    def test() -> None:
        scope.schedule(note, journal, "task")
        wait_idle_sync(scope)
        journal.add("idle")

    async with TaskScope() as scope:
        await in_thread(test)
    assert journal.events == ["task", "idle"]


async def test_wait_idle_sync_names_what_still_runs() -> None:
    """In a thread, too, the error names the tasks; nobody goes on waiting."""
    async with TaskScope() as scope:
        hanging = scope.task(name="hanging").schedule(asyncio.Event().wait)
        with pytest.raises(NotIdleError, match=r"after 0\.0 s, it still has 'hanging' \(id"):
            await in_thread(lambda: wait_idle_sync(scope, timeout=0.0))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task(), hanging._runner}
        hanging.cancel()


async def test_wait_idle_sync_with_a_task_on_its_way() -> None:
    """A task that the loop has not seen yet keeps the scope from being idle."""
    errors: list[NotIdleError] = []

    def test() -> None:
        scope.schedule(nothing)
        with pytest.raises(NotIdleError, match="tasks that a thread has just scheduled") as caught:
            wait_idle_sync(scope, timeout=0)
        errors.append(caught.value)

    async with TaskScope() as scope:
        thread = threading.Thread(target=test)
        thread.start()
        thread.join()  # the loop stands still meanwhile
    assert [error.tasks for error in errors] == [()]


async def test_wait_idle_sync_on_the_loop() -> None:
    """On the loop itself it would wait for ever, and is refused."""
    async with TaskScope() as scope:
        with pytest.raises(WrongLoopError, match=r"write 'await wait_idle\(\.\.\.\)'"):
            wait_idle_sync(scope)


@pytest.mark.parametrize("entered", [False, True])
def test_loop_that_does_not_run(entered: bool) -> None:
    """What needs the loop is refused while it does not run, instead of waiting for ever."""
    with asyncio.Runner() as runner:
        scope = TaskScope(name="idle")
        if entered:
            runner.run(scope.__aenter__())
        for call in wait_idle_sync, run_deferred:
            with pytest.raises(WrongLoopError, match=r"'idle': its event loop does not run"):
                call(scope)
        if entered:
            runner.run(scope.__aexit__(None, None, None))


@pytest.mark.parametrize("seconds", [-1, float("nan"), "5"])
async def test_bad_timeout(seconds: Any) -> None:
    """What is no length of time is refused, and told what to write."""
    async with TaskScope() as scope:
        with pytest.raises(ConfigError, match=r"timeout=.* pass seconds.* None"):
            await wait_idle(scope, timeout=seconds)
        with pytest.raises(ConfigError, match=r"timeout=.* pass seconds.* None"):
            wait_idle_sync(scope, timeout=seconds)


async def test_what_is_no_scope() -> None:
    """An application given instead of its scope is refused, and told what to write."""

    async def app(scope: Any, receive: Receive, send: Send) -> None: ...

    given: Any = app
    advice = r"no TaskScope.* scope_of\(app\).* fastapi_tasks\.testing"
    with pytest.raises(ConfigTypeError, match=advice):
        await wait_idle(given)
    with pytest.raises(ConfigTypeError, match=advice):
        wait_idle_sync(given)
    with pytest.raises(ConfigTypeError, match=advice):
        run_deferred(given)
    with pytest.raises(ConfigTypeError, match=advice), record(given):
        pass


# -- at once ---------------------------------------------------------------------------------


@contextlib.contextmanager
def filled(scope: TaskScope, journal: Journal) -> Generator[tuple[Lifecycle, Lifecycle]]:
    """Two units with deferred tasks, and delayed ones beside them."""
    units = scope.lifecycle("stored", "answered"), scope.lifecycle("stored", "answered")
    for number, unit in enumerate(units):
        unit.phase("answered").schedule(note, journal, f"{number} answered")
        unit.phase("stored").task(delay=60).schedule(note, journal, f"{number} stored")
        unit.phase("stored").task(when="failure").schedule(note, journal, f"{number} failure")
    scope.task(delay=3600).schedule(note, journal, "delayed")
    yield units
    for unit in units:
        unit.close()


async def test_run_deferred_of_a_scope(journal: Journal) -> None:
    """All that waits starts, unit by unit, phase by phase, and what is delayed last."""
    async with TaskScope() as scope:
        with filled(scope, journal):
            started = run_deferred(scope)
            assert journal.events == []  # T1: nothing runs before it returns
            await wait_idle(scope)
            assert journal.events == [
                *("0 stored", "0 answered", "1 stored", "1 answered"),
                "delayed",
            ]
            assert [task.args[1] for task in started] == journal.events
            assert run_deferred(scope) == []


async def test_run_deferred_of_a_unit(journal: Journal) -> None:
    """Of one unit, its own tasks start and no others."""
    async with TaskScope() as scope:
        with filled(scope, journal) as (_, second):
            for task in run_deferred(second):
                await task
            assert journal.events == ["1 stored", "1 answered"]
        run_deferred(scope)


async def test_run_deferred_of_a_phase(journal: Journal) -> None:
    """Of one phase, its own tasks start; the phase is not reached, and later ones wait."""
    async with TaskScope() as scope:
        with filled(scope, journal) as (first, _):
            for task in run_deferred(first.phase("stored")):
                await task
            assert journal.events == ["0 stored"]
            assert not first.is_reached("stored")
            later = first.phase("stored").schedule(note, journal, "later")
            assert later.state is TaskState.DEFERRED
        run_deferred(scope)


async def test_run_deferred_of_a_unit_that_failed(journal: Journal) -> None:
    """T6: `when` is asked as if the phase came now; what it would skip goes on waiting."""
    async with TaskScope() as scope:
        async with scope.lifecycle("end") as unit:
            success = unit.phase("end").schedule(note, journal, "success")
            unit.phase("end").task(when="failure").schedule(note, journal, "failure")
            unit.phase("end").task(when="always").schedule(note, journal, "always")
            unit.fail()
            run_deferred(unit)
            await wait_idle(scope)
            assert journal.events == ["failure", "always"]
            assert not success.done()
        assert success.state is TaskState.SKIPPED


async def test_run_deferred_of_a_unit_with_nothing() -> None:
    """Where nothing waits, nothing starts."""
    async with TaskScope() as scope:
        unit = scope.lifecycle("end")
        assert run_deferred(unit) == run_deferred(unit.phase("end")) == run_deferred(scope) == []


async def test_run_deferred_under_a_limit() -> None:
    """L1: what is started takes its turn under the limit."""
    release = asyncio.Event()
    async with TaskScope(limit=1, backlog=2) as scope:
        scope.schedule(release.wait)
        for _ in range(2):
            scope.task(delay=60).schedule(nothing)
        assert {task.state for task in run_deferred(scope)} == {TaskState.WAITING}
        release.set()
        await wait_idle(scope)


async def test_run_deferred_in_a_thread(journal: Journal) -> None:
    """I8: from a thread, what waits has been given to the loop when it returns."""

    def test() -> None:
        (task,) = run_deferred(scope)
        assert task.state is not TaskState.DEFERRED
        wait_idle_sync(scope)
        assert task.result() is None

    async with TaskScope() as scope:
        scope.task(delay=60).schedule(note, journal, "delayed")
        await in_thread(test)
        assert journal.events == ["delayed"]


@pytest.mark.virtual
async def test_run_deferred_when_one_start_cancels_the_next() -> None:
    """A task that an observer cancels meanwhile is not started."""
    tasks: list[Task[..., object]] = []
    started: list[Task[..., object]] = []

    def cancel_second(event: TaskEvent) -> None:
        if tasks and event.task is tasks[0]:
            tasks[1].cancel()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            # The drain has come to its last stage, in which nothing starts any more.
            later = scope.task(delay=60)
            tasks.extend([later.schedule(nothing), later.schedule(nothing)])
            started.extend(run_deferred(scope))

    async with TaskScope(
        grace_period=0, shield_timeout=0, observers=[cancel_second], on_drain=nothing
    ) as scope:
        scope.task(shield=True).schedule(work)
        await asyncio.sleep(0)
        await scope.drain()
    assert [task.state for task in tasks] == [TaskState.CANCELLED] * 2
    assert started == tasks[:1]


# -- recorded, and not run -------------------------------------------------------------------


async def test_record(journal: Journal) -> None:
    """Each call is written down with all that was given, in order, and nothing runs."""
    config = TaskConfig(name="audit", when="always")
    async with TaskScope() as scope:
        # Kept from before, as an application may.
        bound, kept, early = scope.schedule, scope.task(name="kept"), scope.lifecycle("end")
        with record(scope) as scheduled:
            scope.schedule(note, journal, "now")
            bound(note, journal, event="bound")
            kept.schedule(note, journal, "kept")
            early.schedule(note, journal, "early")
            early.phase("end").schedule(note, journal, "early")
            scope.task(shield=True, delay=5).schedule(print, "plain")
            async with scope.lifecycle("stored", "answered") as unit:
                unit.schedule(note, journal, "unit")
                unit.phase("stored").schedule(note, journal, "phase")
                unit.phase("answered").task(name="audit", when="always").schedule(nothing)
            unit.phase("stored").schedule(nothing)  # reached already
            await wait_idle(scope)
        assert scheduled == [
            Scheduled(note, (journal, "now")),
            Scheduled(note, (journal,), {"event": "bound"}),
            Scheduled(note, (journal, "kept"), config=TaskConfig(name="kept")),
            Scheduled(note, (journal, "early")),
            Scheduled(note, (journal, "early"), phase="end"),
            Scheduled(print, ("plain",), config=TaskConfig(shield=True, delay=5)),
            Scheduled(note, (journal, "unit")),
            Scheduled(note, (journal, "phase"), phase="stored"),
            Scheduled(nothing, phase="answered", config=config),
            Scheduled(nothing, phase="stored"),
        ]
        assert [task.name for task in scheduled[-2:]] == ["audit", "nothing"]
    assert journal.events == []


async def test_scope_after_its_recording(journal: Journal) -> None:
    """What was scheduled before goes on, what is scheduled after runs, and nothing is left."""
    async with TaskScope() as scope:
        before = set(vars(scope)), scope.config
        earlier = scope.schedule(note, journal, "earlier")
        with contextlib.suppress(Problem), record(scope) as scheduled:
            scope.schedule(note, journal, "recorded")
            await earlier
            raise Problem
        await scope.schedule(note, journal, "later")
        assert set(vars(scope)) == before[0]
        assert scope.config is before[1]
        assert len(scheduled) == 1
    assert journal.events == ["earlier", "later"]


async def test_record_inside_a_task(journal: Journal) -> None:
    """What a running task, or a function in a thread of the scope, schedules is recorded."""

    async def parent() -> None:
        current_scope().schedule(note, journal, "child")

    def plain() -> None:
        current_scope().schedule(note, journal, "child of a thread")

    async with TaskScope() as scope:
        tasks = [scope.schedule(parent), scope.task(delay=60).schedule(plain)]
        with record(scope) as scheduled:
            run_deferred(scope)
            for task in tasks:
                await task
        assert {call.args[1] for call in scheduled} == {"child", "child of a thread"}
    assert journal.events == []


async def test_handle_of_a_recorded_task(journal: Journal) -> None:
    """The handle has ended as skipped: awaiting it raises at once, and says why."""
    async with TaskScope() as scope:
        with record(scope):
            task = scope.task(name="mail").schedule(note, journal, "mail")
            assert (task.func, task.args, task.name) == (note, (journal, "mail"), "mail")
            assert task.state is TaskState.SKIPPED
            with pytest.raises(TaskSkippedError, match=r"'mail' .*record\(\) kept it from running"):
                await task
            with pytest.raises(TaskSkippedError, match="outside of that block"):
                task.exception()
            await task.wait()
            assert await task.started.wait() is False
            assert task.cancel() is False


async def test_record_refuses_what_is_refused() -> None:
    """I7: a wrong call is refused as ever, and not written down."""
    async with TaskScope() as scope:
        with record(scope) as scheduled:
            wrong: Any = scope
            with pytest.raises(InvalidCallError, match=r"note\(\) missing 2 required"):
                wrong.schedule(note)
            with pytest.raises(InvalidCallError, match="coroutine object"):
                wrong.schedule(nothing())
            with pytest.raises(ConfigError, match="lane='mail' is unknown"):
                scope.task(lane="mail").schedule(nothing)
            with pytest.raises(ConfigError, match="belongs on the loop"):
                scope.task(run_in="thread").schedule(nothing)
            await scope.drain()
            with pytest.raises(ScopeClosedError, match="is closed"):
                scope.schedule(nothing)
        assert scheduled == []


async def test_record_under_a_limit() -> None:
    """L1, L4: what is recorded takes no place, and what the limit refuses is refused."""
    release = asyncio.Event()
    async with TaskScope(limit=1, backlog=0) as scope:
        with record(scope) as scheduled:
            for _ in range(3):
                scope.schedule(nothing)
        assert len(scheduled) == 3
        scope.schedule(release.wait)
        with record(scope) as scheduled, pytest.raises(BacklogFullError):
            scope.schedule(nothing)
        assert scheduled == []
        release.set()
        await wait_idle(scope)
        await scope.schedule(nothing)


async def test_record_in_threads(journal: Journal) -> None:
    """I8: a thread may record, and what threads schedule is recorded."""

    def test() -> None:
        with record(scope) as scheduled:
            task = scope.schedule(note, journal, "a thread")
            wait_idle_sync(scope)
        assert scheduled == [Scheduled(note, (journal, "a thread"))]
        assert task.state is TaskState.SKIPPED

    async with TaskScope() as scope:
        await in_thread(test)
    assert journal.events == []


async def test_record_twice() -> None:
    """A second recording of the same scope is refused; one of another scope is not."""
    async with TaskScope(name="app") as scope, TaskScope() as other:
        with record(scope) as scheduled, record(other):
            with pytest.raises(RuntimeError, match="'app' is being recorded already"):
                record(scope).__enter__()
            scope.schedule(nothing)
        assert len(scheduled) == 1


async def test_record_and_drain() -> None:
    """A recorded task never runs, not even a shielded one that a drain would start."""
    events: list[tuple[str, TaskState]] = []
    reports: list[DrainReport] = []

    def observe(event: TaskEvent) -> None:
        events.append((event.kind, event.task.state))

    async with TaskScope(observers=[observe], on_drain=reports.append) as scope:
        with record(scope) as scheduled:
            unit = scope.lifecycle("end")
            unit.phase("end").task(shield=True).schedule(nothing)
            scope.task(shield=True, delay=60).schedule(nothing)
            report = await scope.drain()
    assert len(scheduled) == 2
    assert events == [("scheduled", TaskState.DEFERRED), ("skipped", TaskState.SKIPPED)] * 2
    assert reports == [report]
    assert str(report).startswith("0 succeeded, 0 failed, 0 cancelled, 0 abandoned, 0 skipped")


# -- an application --------------------------------------------------------------------------


class App:
    """An ASGI application whose lifespan does as it is told, and whose requests schedule.

    Args:
        journal: Gets what happens.
        start_up: What the lifespan answers to its start-up; an exception is raised.
        shutdown: As `start_up`.
    """

    def __init__(
        self,
        journal: Journal,
        start_up: str | Exception = "lifespan.startup.complete",
        shutdown: str | Exception = "lifespan.shutdown.complete",
    ) -> None:
        self.journal = journal
        self.answers = [start_up, shutdown]

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            current_scope().schedule(note, self.journal, f"task of {scope['path']}")
            scope["state"]["requests"] = scope["state"].get("requests", 0) + 1
            self.journal.add(dict(scope["state"]))
            return
        scope["state"]["pool"] = "open"
        for answer in self.answers:
            self.journal.add((await receive())["type"])
            if isinstance(answer, Exception):
                raise answer
            await send({"type": answer, "message": "no database"})
        await asyncio.sleep(0)  # it may have more to do when it has answered
        self.journal.add("end")


async def hear_nothing() -> Any:
    """What a server's `receive` gives in these tests."""


async def test_running(journal: Journal) -> None:
    """The lifespan has started up before the block and shut down after it, tasks drained."""
    app = TasksMiddleware(App(journal))
    async with running(app) as served:
        scope = scope_of(app)
        for path in "/a", "/b":
            await served({"type": "http", "path": path}, hear_nothing, nothing)
        await wait_idle(scope)
        journal.add("idle")
    state = {"pool": "open", "requests": 1}  # each request has a copy
    assert journal.events == [
        "lifespan.startup",
        *(state, state, "task of /a", "task of /b", "idle"),
        *("lifespan.shutdown", "end"),
    ]
    with pytest.raises(ScopeClosedError):
        scope.schedule(nothing)


async def test_running_an_application_without_a_lifespan(journal: Journal) -> None:
    """One that refuses its lifespan has a scope all the same, if it was wrapped."""

    async def refusing(scope: Any, receive: Receive, send: Send) -> None:
        raise Problem("no lifespan here")

    app = TasksMiddleware(refusing)
    async with running(app):
        await scope_of(app).schedule(note, journal, "task")
    assert journal.events == ["task"]
    with pytest.raises(Problem, match="no lifespan here"):
        async with running(refusing):
            pass


async def test_block_raises(journal: Journal) -> None:
    """An error of the test comes out, and the application has shut down."""
    with pytest.raises(Problem, match="of the test"):
        async with running(TasksMiddleware(App(journal))):
            raise Problem("of the test")
    assert journal.events[-1] == "end"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"start_up": Problem("broken")}, Problem, "^broken$"),
        ({"start_up": "lifespan.startup.failed"}, RuntimeError, r"startup\.failed: no database"),
        ({"shutdown": Problem("broken")}, Problem, "^broken$"),
        ({"shutdown": "lifespan.shutdown.failed"}, RuntimeError, r"shutdown\.failed: no database"),
        ({"shutdown": "something"}, RuntimeError, "its shutdown with something"),
    ],
    ids=str,
)
async def test_lifespan_fails(
    journal: Journal, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    """What the application raises comes out; where it only says so, that is the error."""
    app = App(journal, **options)
    if "start_up" in options:
        app.answers = app.answers[:1]
    with pytest.raises(error, match=message):
        async with running(app):
            journal.add("block")
    assert ("block" in journal.events) == ("shutdown" in options)


async def test_lifespan_ends_too_early(journal: Journal) -> None:
    """An application whose lifespan does not wait for the shutdown is told so."""
    app = App(journal)
    app.answers = app.answers[:1]
    with pytest.raises(RuntimeError, match="its shutdown with the end of its lifespan: it gave no"):
        async with running(app):
            pass


async def test_running_cancelled_at_every_await() -> None:
    """However it is cancelled, no lifespan is left, and the second time is enough."""
    journals: list[Journal] = []

    async def procedure() -> None:
        journals.append(Journal())
        async with running(TasksMiddleware(App(journals[-1]))) as served:
            await served({"type": "http", "path": "/"}, hear_nothing, nothing)

    async def check(outcome: Outcome[None]) -> None:
        await asyncio.sleep(0)

    outcomes = await cancel_at_every_await(procedure, times=2, check=check)
    assert len(outcomes) > 3
    assert journals[0].events[-1] == "end"


async def test_scope_of_what_does_not_run(journal: Journal) -> None:
    """An application without a lifespan that runs has no scope, and the error says what to do."""
    app = TasksMiddleware(App(journal))
    with pytest.raises(NoCurrentScopeError, match=r"async with running\(app\)"):
        scope_of(app)
    async with running(app):
        pass
    with pytest.raises(NoCurrentScopeError):
        scope_of(app)


def test_scope_of_something_else(journal: Journal) -> None:
    """What is not wrapped is refused, and told what to write."""
    wrong: Any = App(journal)
    with pytest.raises(ConfigTypeError, match=r"no TasksMiddleware.* fastapi_tasks\.testing"):
        scope_of(wrong)


async def test_scope_of_an_application_on_other_loops(journal: Journal) -> None:
    """From elsewhere, it is the scope of the one loop; of several, it must be asked there."""
    app = TasksMiddleware(App(journal))

    async def elsewhere() -> None:
        async with running(app):
            assert scope_of(app) is not here
            with pytest.raises(WrongLoopError, match="2 event loops serve"):
                await in_thread(scope_of, app)

    async with running(app):
        here = scope_of(app)
        assert await in_thread(scope_of, app) is here
        await in_thread(asyncio.run, elsewhere())
        assert scope_of(app) is here


def test_names_of_the_clock() -> None:
    """The virtual clock is offered here; `tests/taskcore/test_clock.py` proves it."""
    assert testing.run_virtual(asyncio.sleep(3600, "slept")) == "slept"
    assert issubclass(testing.VirtualClockLoop, asyncio.SelectorEventLoop)
