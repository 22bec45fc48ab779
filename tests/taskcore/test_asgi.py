"""The ASGI layer on raw applications: moments, outcome, lifespan, nesting."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import weakref
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from taskcore import (
    DrainReport,
    Lifecycle,
    Task,
    TaskConfig,
    TaskScope,
    TaskState,
    current_scope,
)
from taskcore.asgi import (
    AFTER_RESPONSE,
    AFTER_ROUTE,
    UNIT,
    RequestTasks,
    TasksMiddleware,
    current_tasks,
)
from taskcore.errors import ConfigValueError, NoCurrentScopeError, TaskSkippedError
from taskcore.spi import current_unit
from tests.fastapi_tasks.server import Connection, Server, note
from tests.helpers import Journal, Outcome, cancel_at_every_await

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
Handler = Callable[[Scope, Receive, Send], Awaitable[None]]

START: dict[str, Any] = {"type": "http.response.start", "status": 200, "headers": []}
CHUNK: dict[str, Any] = {"type": "http.response.body", "body": b"a", "more_body": True}
LAST: dict[str, Any] = {"type": "http.response.body", "body": b""}

SUCCESS = ["route success", "route always", "response success", "response always"]
FAILURE = ["route failure", "route always", "response failure", "response always"]
FAILURE_AFTER_ROUTE = ["route success", "route always", "response failure", "response always"]


class Problem(Exception):
    """What goes wrong in these tests."""


@pytest.fixture
def journal() -> Journal:
    """Where the test's tasks and its server write down what happens."""
    return Journal()


def served(handler: Handler, **options: Any) -> TasksMiddleware:
    """An application that answers requests with `handler`, and has no lifespan of its own."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] != "lifespan", "not supported"
        await handler(scope, receive, send)

    return TasksMiddleware(app, **options)


def with_lifespan(
    start_up: Callable[[], Awaitable[None]], teardown: Callable[[], Awaitable[None]]
) -> Handler:
    """An application that answers the messages of its lifespan, and nothing else."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await start_up()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await teardown()
        await send({"type": "lifespan.shutdown.complete"})

    return app


async def nothing() -> None:
    """Do nothing."""


def unit() -> Lifecycle:
    """The unit of the running request."""
    current = current_unit()
    assert current is not None
    return current


def schedule_each(journal: Journal) -> None:
    """Schedule a task on both phases for each value of `when`."""
    for name, phase in ("route", AFTER_ROUTE), ("response", AFTER_RESPONSE):
        for when in ("success", "failure", "always"):
            config = unit().phase(phase).task(when=when)
            config.schedule(note, journal, f"{name} {when}")


def ran(journal: Journal) -> list[str]:
    """Which of those tasks ran, in order."""
    return [str(event) for event in journal.events if event in {*SUCCESS, *FAILURE}]


# -- moments --------------------------------------------------------------------------------


async def test_moments_of_a_request(journal: Journal) -> None:
    """T2, T3, T4: each task has begun at its moment: before the first message, after the call."""

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        unit().phase(AFTER_RESPONSE).schedule(note, journal, "after_response")
        unit().phase(AFTER_ROUTE).schedule(note, journal, "after_route")
        unit().schedule(note, journal, "now")
        journal.add("handler")
        await send(START)
        await send(CHUNK)
        await send(LAST)
        journal.add("still at work")

    async with Server(served(handler), journal) as server:
        await server.get("/")
    assert journal.events == [
        *("handler", "now", "after_route", "start 200", "chunk", "last", "still at work"),
        *("done", "after_response"),
    ]


async def test_no_task_delays_the_response(journal: Journal) -> None:
    """T3: an `after_route` task that waits holds nothing up."""
    release = asyncio.Event()

    async def wait() -> None:
        journal.add("begins")
        await release.wait()
        journal.add("ends")

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        unit().phase(AFTER_ROUTE).schedule(wait)
        await send(START)
        await send(LAST)

    async with Server(served(handler), journal) as server:
        await server.get("/")
        release.set()
    assert journal.events == ["begins", "start 200", "last", "done", "ends"]


async def test_reached_phase_starts_at_once(journal: Journal) -> None:
    """T5: what is scheduled on `after_route` between two messages starts at once."""

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        assert unit().is_reached(AFTER_ROUTE)
        assert not unit().is_reached(AFTER_RESPONSE)
        await unit().phase(AFTER_ROUTE).schedule(note, journal, "after_route")
        await send(LAST)

    async with Server(served(handler), journal) as server:
        await server.get("/")
    assert journal.events == ["start 200", "after_route", "last", "done"]


async def test_request_without_a_response(journal: Journal) -> None:
    """T5: an application that returns without a response loses no task."""

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        schedule_each(journal)

    async with Server(served(handler), journal) as server:
        await server.get("/")
    assert journal.events == ["done", *SUCCESS]


async def test_moments_of_a_websocket(journal: Journal) -> None:
    """T4: both phases of a websocket are reached when the application has returned."""

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        schedule_each(journal)
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.close"})

    async with Server(served(handler), journal) as server:
        await server.open("/", kind="websocket").call
    assert journal.events == ["websocket.accept", "websocket.close", "done", *SUCCESS]


async def test_current_scope_and_unit() -> None:
    """The scope and the unit are current in a request alone, also where it failed."""
    units: list[Lifecycle] = []

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope[UNIT] is unit()
        assert unit().origin is scope
        assert unit().scope is current_scope()
        assert current_scope().name == "app"
        units.append(unit())
        raise Problem

    app = served(handler)
    async with Server(app):
        for _ in range(2):
            with pytest.raises(Problem):
                await app({"type": "http"}, asyncio.Queue[Any]().get, asyncio.Queue[Any]().put)
            assert current_unit() is None
            with pytest.raises(NoCurrentScopeError):
                current_scope()
    assert units[0] is not units[1]


async def test_current_tasks(journal: Journal) -> None:
    """T2: the tasks of the request are there for what an endpoint calls, and for its threads."""

    def schedule_later(tasks: RequestTasks) -> None:
        tasks.after_response.schedule(note, journal, "after_response")
        tasks.after_route.task(name="index").schedule(note, journal, "after_route")

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.to_thread(lambda: schedule_later(current_tasks()))
        await current_tasks().task(name="track").schedule(note, journal, "now")
        assert await current_tasks().schedule(lambda: current_tasks().scope) is current_scope()
        await send(START)
        await send(LAST)

    async with Server(served(handler), journal) as server:
        await server.get("/")
    assert journal.events == ["now", "after_route", "start 200", "last", "done", "after_response"]


async def test_current_tasks_outside_of_a_request() -> None:
    """I7: where there is no request, or its lifespan never ran, the error says what to write."""

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        current_tasks()

    app = served(handler)
    with pytest.raises(NoCurrentScopeError, match="let its lifespan run"):
        await app({"type": "http"}, asyncio.Queue[Any]().get, asyncio.Queue[Any]().put)
    async with TaskScope() as scope, scope.lifecycle("a unit that is no request"):
        with pytest.raises(NoCurrentScopeError, match=r"taskcore\.current_scope\(\)"):
            current_tasks()


async def test_other_connections_are_passed_on(journal: Journal) -> None:
    """A type of connection that has no moments is the application's own business."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        journal.add((scope["type"], UNIT in scope))

    middleware = TasksMiddleware(app)
    await middleware({"type": "other"}, asyncio.Queue[Any]().get, asyncio.Queue[Any]().put)
    assert journal.events == [("other", False)]


# -- outcome --------------------------------------------------------------------------------


async def test_application_raises(journal: Journal) -> None:
    """T6: a request whose application raised before a response has failed in both phases."""
    tasks: list[Task[..., Any]] = []

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        schedule_each(journal)
        tasks.append(unit().phase(AFTER_RESPONSE).schedule(note, journal, "never"))
        raise Problem

    async with Server(served(handler), journal) as server:
        with pytest.raises(Problem):
            await server.get("/")
    assert ran(journal) == FAILURE
    assert tasks[0].state is TaskState.SKIPPED
    with pytest.raises(TaskSkippedError):
        await tasks[0]


@pytest.mark.parametrize("messages", [[START], [START, CHUNK], [START, LAST]])
async def test_application_raises_after_its_response_began(
    journal: Journal, messages: list[Any]
) -> None:
    """T6: an exception after the response began fails what has not been reached."""

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        schedule_each(journal)
        for message in messages:
            await send(message)
        raise Problem

    async with Server(served(handler), journal) as server:
        with pytest.raises(Problem):
            await server.get("/")
    assert ran(journal) == FAILURE_AFTER_ROUTE


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([], FAILURE),
        ([START, CHUNK], FAILURE_AFTER_ROUTE),
        ([START, CHUNK, LAST], SUCCESS),
        ([START, {"type": "http.response.pathsend", "path": "/file"}], SUCCESS),
    ],
)
async def test_cancelled(journal: Journal, messages: list[Any], expected: list[str]) -> None:
    """T6: a request cancelled before its response was complete has failed, after that not."""
    waits = asyncio.Event()

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        schedule_each(journal)
        for message in messages:
            await send(message)
        waits.set()
        await asyncio.Event().wait()

    async with Server(served(handler), journal) as server:
        connection = server.open("/")
        await waits.wait()
        connection.call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connection.call
    assert ran(journal) == expected


@pytest.mark.parametrize("wrapped", ["as it is", "as cause", "as context", "in a group"])
async def test_client_is_gone(journal: Journal, wrapped: str) -> None:
    """T6: what the server raised on sending is no failure, however the application wraps it."""

    async def send_last(send: Send) -> None:
        await send(LAST)

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        schedule_each(journal)
        await send(START)
        connection.lose()
        if wrapped == "in a group":
            async with asyncio.TaskGroup() as group:
                group.create_task(send_last(send))
        try:
            await send(LAST)
        except OSError as error:
            if wrapped == "as cause":
                raise Problem from error
            if wrapped == "as context":
                raise Problem  # noqa: B904 (its context is what the test is about)
            raise

    async with Server(served(handler), journal) as server:
        connection = server.open("/")
        await asyncio.wait([connection.call])
        assert connection.call.exception() is not None
    assert ran(journal) == SUCCESS


class Gone(Exception):
    """What a framework raises when the client went away."""


@pytest.mark.parametrize("lost", [False, True])
async def test_task_does_not_hold_the_connection(lost: bool) -> None:
    """I6: a task that outlives its request holds nothing of the server's, nor an error of it."""
    release = asyncio.Event()

    class Client:
        async def send(self, message: Any) -> None:
            if lost:
                raise OSError("the client is gone")

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        current_tasks().schedule(release.wait)
        await send(START)
        await send(LAST)

    async def call() -> weakref.ref[Client]:
        client = Client()
        with contextlib.suppress(OSError):
            await app({"type": "http"}, asyncio.Event().wait, client.send)
        return weakref.ref(client)

    app = served(handle)
    async with Server(app):
        client = await call()
        assert client() is None
        release.set()


async def test_disconnect_error_of_a_framework(journal: Journal) -> None:
    """T6: nor is what the framework raises for it."""

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        schedule_each(journal)
        raise Gone

    async with Server(served(handler, disconnect_errors=(Gone,)), journal) as server:
        with pytest.raises(Gone):
            await server.get("/")
    assert ran(journal) == SUCCESS


async def test_disconnect_errors_beside_a_problem(journal: Journal) -> None:
    """T6: a group in which anything else is beside the disconnect is a failure."""

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        schedule_each(journal)
        raise ExceptionGroup("of a task group", [Gone(), Problem()])

    async with Server(served(handler, disconnect_errors=(Gone,)), journal) as server:
        with pytest.raises(ExceptionGroup):
            await server.get("/")
    assert ran(journal) == FAILURE


async def test_other_os_error(journal: Journal) -> None:
    """T6: an `OSError` of the application's own is a failure."""

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        schedule_each(journal)
        raise FileNotFoundError

    async with Server(served(handler), journal) as server:
        with pytest.raises(FileNotFoundError):
            await server.get("/")
    assert ran(journal) == FAILURE


class OwnCause(Exception):
    """An exception as `raise error from error` makes it, which counts how often it is read."""

    def __init__(self) -> None:
        self.reads = 0

    @property
    def __cause__(self) -> BaseException | None:  # type: ignore[override]  # it is only read here
        """Itself, at most a hundred times."""
        self.reads += 1
        return self if self.reads <= 100 else None


async def test_error_that_is_its_own_cause(journal: Journal) -> None:
    """T6: an exception that is its own cause holds nothing up."""
    error = OwnCause()

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        schedule_each(journal)
        raise error

    async with Server(served(handler), journal) as server:
        with pytest.raises(OwnCause):
            await server.get("/")
    assert error.reads <= 2
    assert ran(journal) == FAILURE


# -- lifespan -------------------------------------------------------------------------------


async def live(app: TasksMiddleware, journal: Journal) -> Connection:
    """Begin the lifespan, noted in `journal`, and wait for the end of start-up."""
    lifespan = Connection(app, {"type": "lifespan"}, journal)
    lifespan.give("lifespan.startup")
    await lifespan.wait_sent("lifespan.startup.complete")
    return lifespan


async def test_order_of_a_lifespan(journal: Journal) -> None:
    """S4: tasks run in start-up; they end before the teardown, its own before the server hears."""
    release = asyncio.Event()

    async def work() -> None:
        await release.wait()
        journal.add("task ends")

    async def start_up() -> None:
        current_scope().schedule(work)
        await current_scope().schedule(note, journal, "task of start-up")

    async def teardown() -> None:
        assert release.is_set()
        journal.add("teardown")
        current_scope().schedule(note, journal, "task of teardown")

    lifespan = await live(TasksMiddleware(with_lifespan(start_up, teardown)), journal)
    lifespan.give("lifespan.shutdown")
    asyncio.get_running_loop().call_soon(release.set)
    await lifespan.call
    assert journal.events == [
        *("task of start-up", "lifespan.startup.complete", "task ends", "teardown"),
        *("task of teardown", "lifespan.shutdown.complete", "done"),
    ]


async def test_application_that_refuses_its_lifespan(journal: Journal) -> None:
    """S4: an application without a lifespan, which raises, has tasks, drained at shutdown."""

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        unit().schedule(note, journal, "task")

    app = served(handler)
    lifespan = await live(app, journal)
    await app({"type": "http"}, asyncio.Queue[Any]().get, asyncio.Queue[Any]().put)
    lifespan.give("lifespan.shutdown")
    await lifespan.call
    assert journal.events == [
        *("lifespan.startup.complete", "task", "lifespan.shutdown.complete", "done")
    ]


async def test_application_that_ignores_its_lifespan(journal: Journal) -> None:
    """S4: and so has one that just returns."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            unit().schedule(note, journal, "task")

    middleware = TasksMiddleware(app)
    lifespan = await live(middleware, journal)
    await middleware({"type": "http"}, asyncio.Queue[Any]().get, asyncio.Queue[Any]().put)
    lifespan.give("lifespan.shutdown")
    await lifespan.call
    assert journal.events == [
        *("lifespan.startup.complete", "task", "lifespan.shutdown.complete", "done")
    ]


async def test_start_up_fails(journal: Journal) -> None:
    """S4: tasks of a start-up that fails end before the server hears of it."""
    release = asyncio.Event()

    async def work() -> None:
        await release.wait()
        journal.add("task ends")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        current_scope().schedule(work)
        asyncio.get_running_loop().call_soon(release.set)
        await send({"type": "lifespan.startup.failed", "message": "no database"})

    lifespan = await live(TasksMiddleware(app), journal)
    await lifespan.call
    assert journal.events == ["task ends", "lifespan.startup.failed", "done"]


async def test_lifespan_raises(journal: Journal) -> None:
    """S4: where a lifespan raises, its tasks are drained, and the server gets the exception."""

    async def start_up() -> None:
        current_scope().schedule(note, journal, "task")
        raise Problem

    lifespan = await live(TasksMiddleware(with_lifespan(start_up, nothing)), journal)
    with pytest.raises(Problem):
        await lifespan.call
    assert journal.events == ["done", "task"] or journal.events == ["task", "done"]


async def test_teardown_raises(journal: Journal) -> None:
    """S4: where a teardown raises, its tasks end before the server gets the exception."""

    async def teardown() -> None:
        current_scope().schedule(note, journal, "task")
        raise Problem

    lifespan = await live(TasksMiddleware(with_lifespan(nothing, teardown)), journal)
    lifespan.give("lifespan.shutdown")
    with pytest.raises(Problem):
        await lifespan.call
    assert journal.events == ["lifespan.startup.complete", "task", "done"]


async def test_server_cancels_the_lifespan(journal: Journal) -> None:
    """S2, S4: shielded tasks end before the application hears that its lifespan is cancelled."""
    release = asyncio.Event()

    async def work() -> None:
        await release.wait()
        journal.add("task ends")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        current_scope().task(shield=True).schedule(work)
        await send({"type": "lifespan.startup.complete"})
        try:
            await receive()
        finally:
            current_scope().schedule(note, journal, "task of teardown")
            journal.add("teardown")

    lifespan = await live(TasksMiddleware(app, grace_period=0), journal)
    lifespan.call.cancel()
    asyncio.get_running_loop().call_soon(release.set)
    with pytest.raises(asyncio.CancelledError):
        await lifespan.call
    assert journal.events[:3] == ["lifespan.startup.complete", "task ends", "teardown"]
    assert set(journal.events[3:]) <= {"task of teardown", "done"}


async def test_lifespan_cancelled_at_every_await() -> None:
    """S2, S4: wherever the lifespan is cancelled, tasks end before the teardown begins."""
    state = {"open": 0, "used": 0}

    async def work() -> None:
        await asyncio.sleep(0)
        assert state["open"] == 1
        state["used"] += 1

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        state["open"] += 1
        try:
            await asyncio.sleep(0)
            current_scope().task(shield=True).schedule(work)
            await send({"type": "lifespan.startup.complete"})
            await receive()
        finally:
            if state["used"]:
                state["open"] -= 1

    async def procedure() -> None:
        state.update(open=0, used=0)
        messages: asyncio.Queue[Any] = asyncio.Queue()
        messages.put_nowait({"type": "lifespan.startup"})
        messages.put_nowait({"type": "lifespan.shutdown"})
        middleware = TasksMiddleware(app, grace_period=0)
        await middleware({"type": "lifespan"}, messages.get, asyncio.Queue[Any]().put)

    def check(outcome: Outcome[None]) -> None:
        # Only a cancellation in the application's own start-up may find no task at all.
        assert state["used"] == 1 or "app:" in outcome.cancelled_at[0]

    await cancel_at_every_await(procedure, times=2, check=check)


async def test_second_lifespan_on_the_same_loop(journal: Journal) -> None:
    """I7: a second lifespan at the same time is refused, and the first goes on."""
    app = TasksMiddleware(with_lifespan(nothing, nothing))
    lifespan = await live(app, journal)
    with pytest.raises(RuntimeError, match="serve a second instance of the application"):
        await (await live(app, Journal())).call
    lifespan.give("lifespan.shutdown")
    await lifespan.call
    assert journal.events[-2:] == ["lifespan.shutdown.complete", "done"]


async def test_same_application_on_two_loops() -> None:
    """One application on two event loops at once has a scope on each."""
    names: list[object] = []

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        names.append(unit().scope)
        await unit().schedule(nothing)

    app = served(handler)

    async def serve() -> None:
        async with Server(app) as server:
            await server.get("/")

    async with Server(app) as server:
        await asyncio.to_thread(asyncio.run, serve())
        await server.get("/")
    assert len(set(names)) == 2


async def test_started_again(journal: Journal) -> None:
    """S4: an application can be started, stopped and started again."""

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        schedule_each(journal)

    app = served(handler)
    for round_ in range(1, 3):
        async with Server(app) as server:
            await server.get("/")
        assert ran(journal) == SUCCESS * round_


async def test_lifespan_that_never_ran() -> None:
    """I7: without a lifespan there is no unit, which the ASGI scope says to adapters."""
    seen: list[object] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append((scope[UNIT], current_unit()))

    middleware = TasksMiddleware(app, config=TaskConfig(shield=True))
    await middleware({"type": "http"}, asyncio.Queue[Any]().get, asyncio.Queue[Any]().put)
    assert seen == [(None, None)]


# -- options and nesting --------------------------------------------------------------------


async def test_wrong_option() -> None:
    """I7: a wrong option is refused when the application is wrapped, not when it starts."""
    with pytest.raises(ConfigValueError, match="pass at least 1"):
        TasksMiddleware(with_lifespan(nothing, nothing), limit=0)


async def test_on_drain(journal: Journal) -> None:
    """S3: the application's report names its tasks; a teardown without tasks makes no other."""
    reports: list[DrainReport] = []
    release = asyncio.Event()

    async def start_up() -> None:
        current_scope().task(name="work").schedule(release.wait)

    app = TasksMiddleware(with_lifespan(start_up, nothing), on_drain=reports.append)
    lifespan = await live(app, journal)
    lifespan.give("lifespan.shutdown")
    asyncio.get_running_loop().call_soon(release.set)
    await lifespan.call
    assert [[entry.name for entry in report.succeeded] for report in reports] == [["work"]]


async def test_drain_of_a_teardown_with_tasks_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    """S3: a teardown that has tasks is logged beside the shutdown, under the same name."""

    async def teardown() -> None:
        current_scope().schedule(nothing)

    caplog.set_level(logging.INFO, "taskcore")
    app = TasksMiddleware(with_lifespan(nothing, teardown), name="shop")
    lifespan = await live(app, Journal())
    lifespan.give("lifespan.shutdown")
    await lifespan.call
    logged = [record.getMessage() for record in caplog.records if record.name == "taskcore"]
    assert [line.split(" ended")[0] for line in logged] == ["drain of scope 'shop'"] * 2
    assert "0 succeeded" in logged[0]
    assert "1 succeeded" in logged[1]


@pytest.mark.parametrize("config", [None, TaskConfig(name="inner")])
async def test_nested(journal: Journal, config: TaskConfig | None) -> None:
    """T7: an inner one whose lifespan does not run uses the outer scope and moments."""

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        assert unit().config.name == ("inner" if config else "outer")
        assert unit().config.shielded
        schedule_each(journal)
        await send(START)
        await send(LAST)

    inner = TasksMiddleware(handler, config=config)
    app = served(inner, config=TaskConfig(name="outer", shield=True))
    async with Server(app, journal) as server:
        await server.get("/")
    assert journal.events == [*SUCCESS[:2], "start 200", "last", "done", *SUCCESS[2:]]


async def test_nested_with_its_own_lifespan(journal: Journal) -> None:
    """T7: an inner one whose lifespan runs has a scope and moments of its own."""

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        assert unit().scope.name == "inner"
        unit().phase(AFTER_RESPONSE).schedule(note, journal, "inner")
        await send(START)
        await send(LAST)

    inner = served(handler, name="inner")

    async def outer(scope: Scope, receive: Receive, send: Send) -> None:
        unit().phase(AFTER_RESPONSE).schedule(note, journal, "outer")
        await inner(scope, receive, send)
        assert unit().scope.name == "outer"
        await asyncio.sleep(0)
        journal.add("outer call ends")

    async with Server(inner), Server(served(outer, name="outer"), journal) as server:
        await server.get("/")
    assert journal.events == [*("start 200", "last", "inner", "outer call ends", "done", "outer")]
