"""`when=`: which deferred tasks run after a request that succeeded, failed or was cut off."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from fastapi import (
    Depends,
    FastAPI,
    HTTPException,
    Request,
    Response,
    WebSocket,
    WebSocketDisconnect,
)
from fastapi.exceptions import ResponseValidationError
from fastapi.responses import StreamingResponse
from starlette.background import BackgroundTask
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import ClientDisconnect

from fastapi_tasks import RequestTasks, Task, Tasks, add_tasks, current_tasks
from taskcore import TaskEvent, TaskState
from taskcore.errors import TaskSkippedError
from tests.fastapi_tasks.server import Server, note
from tests.helpers import Journal

ROOT = Path(__file__).parents[2]
SUCCESS = ["route success", "route always", "response success", "response always"]
FAILURE = ["route failure", "route always", "response failure", "response always"]
FAILURE_AFTER_ROUTE = ["route success", "route always", "response failure", "response always"]


class Problem(Exception):
    """What goes wrong in these tests."""


def schedule_each(tasks: RequestTasks, journal: Journal) -> None:
    """Schedule a task on both phases for each value of `when`."""
    for name, phase in ("route", tasks.after_route), ("response", tasks.after_response):
        phase.task(when="success").schedule(note, journal, f"{name} success")
        phase.task(when="failure").schedule(note, journal, f"{name} failure")
        phase.task(when="always").schedule(note, journal, f"{name} always")


def ran(journal: Journal) -> list[str]:
    """Which tasks ran, in order."""
    return [str(event) for event in journal.events if event in {*SUCCESS, *FAILURE}]


async def get(app: FastAPI, journal: Journal, path: str = "/", **options: Any) -> int:
    """Make a request that raises nothing out of the app; return its status."""
    async with Server(app, journal) as server:
        connection = server.open(path, **options)
        await connection.call
        return connection.status


async def fail(app: FastAPI, journal: Journal, error: type[Exception]) -> None:
    """Make a request that raises `error` out of the app."""
    async with Server(app, journal) as server:
        with pytest.raises(error):
            await server.get("/")


# -- endpoints that return ------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 404, 500])
async def test_endpoint_returns(app: FastAPI, journal: Journal, status: int) -> None:
    """T6: an endpoint that returned has succeeded, whatever the status code."""

    @app.get("/")
    async def endpoint(tasks: Tasks) -> Response:
        schedule_each(tasks, journal)
        return Response(status_code=status)

    assert await get(app, journal) == status
    assert ran(journal) == SUCCESS


async def test_success_is_the_default(app: FastAPI, journal: Journal) -> None:
    """T6: a task without `when` runs after a success and not after a failure."""

    @app.get("/")
    async def endpoint(tasks: Tasks, status: int) -> None:
        tasks.after_route.schedule(note, journal, f"route {status}")
        tasks.after_response.schedule(note, journal, f"response {status}")
        if status != 200:
            raise HTTPException(status)

    async with Server(app, journal) as server:
        await server.get("/?status=200")
        await server.get("/?status=400")
    events = [event for event in journal.events if str(event).startswith(("route", "response"))]
    assert events == ["route 200", "response 200"]


async def test_skipped_task(journal: Journal) -> None:
    """T6: a task that will not run ends as skipped, is reported, and says so when awaited."""
    events: list[TaskEvent] = []
    tasks_of: list[Task[..., Any]] = []
    app = FastAPI()
    add_tasks(app, observers=[events.append])

    @app.get("/")
    async def endpoint(tasks: Tasks) -> None:
        tasks_of.append(tasks.after_response.schedule(note, journal, "never"))
        raise HTTPException(400)

    async with Server(app, journal) as server:
        await server.get("/")
        (task,) = tasks_of
        assert task.state is TaskState.SKIPPED
        with pytest.raises(TaskSkippedError, match="task\\(when='always'\\)"):
            await task
    assert [(event.kind, event.task) for event in events] == [
        ("scheduled", task),
        ("skipped", task),
    ]
    assert "never" not in journal.events


# -- endpoints that raise -------------------------------------------------------------------


@pytest.mark.parametrize("is_async", [True, False])
async def test_http_exception(app: FastAPI, journal: Journal, is_async: bool) -> None:
    """T6: an `HTTPException` is a failure, in `async def` and `def` endpoints."""

    async def endpoint(tasks: Tasks) -> None:
        schedule_each(tasks, journal)
        raise HTTPException(404)

    def endpoint_in_thread(tasks: Tasks) -> None:
        schedule_each(tasks, journal)
        raise HTTPException(404)

    if is_async:
        app.get("/")(endpoint)
    else:
        app.get("/")(endpoint_in_thread)
    assert await get(app, journal) == 404
    assert ran(journal) == FAILURE
    assert journal.events[:2] == ["route failure", "route always"]


async def test_unhandled_exception(app: FastAPI, journal: Journal) -> None:
    """T6: an exception without a handler is a failure in both phases."""

    @app.get("/")
    async def endpoint(tasks: Tasks) -> None:
        schedule_each(tasks, journal)
        raise Problem

    await fail(app, journal, Problem)
    assert ran(journal) == FAILURE
    journal.assert_order("route failure", "start 500", "last", "done", "response failure")


@pytest.mark.parametrize("handled", [Problem, Exception])
async def test_exception_with_handler(
    app: FastAPI, journal: Journal, handled: type[Exception]
) -> None:
    """T6: an exception that a handler turns into a response is a failure."""

    async def answer(request: Request, error: Exception) -> Response:
        return Response(status_code=418)

    app.add_exception_handler(handled, answer)

    @app.get("/")
    async def endpoint(tasks: Tasks) -> None:
        schedule_each(tasks, journal)
        raise Problem

    if handled is Problem:
        assert await get(app, journal) == 418
    else:  # Starlette answers, and raises it for the server's log
        await fail(app, journal, Problem)
    assert ran(journal) == FAILURE


async def test_exception_that_middleware_answers(app: FastAPI, journal: Journal) -> None:
    """T6, T7: an exception that `BaseHTTPMiddleware` turns into a response is a failure."""

    async def answer(request: Request, call_next: RequestResponseEndpoint) -> Response:
        try:
            return await call_next(request)
        except Problem:
            return Response(status_code=503)

    app.add_middleware(BaseHTTPMiddleware, dispatch=answer)

    @app.get("/")
    async def endpoint(tasks: Tasks) -> None:
        schedule_each(tasks, journal)
        raise Problem

    assert await get(app, journal) == 503
    assert ran(journal) == FAILURE


async def test_middleware_that_copies_the_asgi_scope(app: FastAPI, journal: Journal) -> None:
    """T6, T7: a failure is noticed behind a middleware that passes on a copy of the scope."""

    class Copies:
        def __init__(self, app: Callable[..., Any]) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await self.app(dict(scope), receive, send)

    app.add_middleware(Copies)

    @app.get("/")
    async def endpoint(tasks: Tasks) -> None:
        schedule_each(tasks, journal)
        raise HTTPException(400)

    assert await get(app, journal) == 400
    assert ran(journal) == FAILURE


async def test_request_validation_error(app: FastAPI, journal: Journal) -> None:
    """T6: a request that does not validate is a failure for what a dependency scheduled."""

    async def dependency(tasks: Tasks) -> None:
        schedule_each(tasks, journal)

    @app.get("/", dependencies=[Depends(dependency)])
    async def endpoint(number: int) -> None:
        raise AssertionError("not reached")

    assert await get(app, journal, "/?number=x") == 422
    assert ran(journal) == FAILURE


async def test_response_validation_error(app: FastAPI, journal: Journal) -> None:
    """T6: an endpoint whose response does not validate has failed."""

    @app.get("/", response_model=int)
    async def endpoint(tasks: Tasks) -> str:
        schedule_each(tasks, journal)
        return "x"

    await fail(app, journal, ResponseValidationError)
    assert ran(journal) == FAILURE


async def test_tasks_known_by_current_tasks_alone(app: FastAPI, journal: Journal) -> None:
    """T6: a failure is noticed as well where `current_tasks` was called, and nothing injected."""

    @app.get("/")
    def endpoint() -> None:
        schedule_each(current_tasks(), journal)
        raise HTTPException(400)

    assert await get(app, journal) == 400
    assert ran(journal) == FAILURE


async def test_failure_of_a_mounted_app(app: FastAPI, journal: Journal) -> None:
    """T6, T7: a failure is noticed in a mounted app."""
    mounted = FastAPI()
    app.mount("/sub", mounted)

    @mounted.get("/")
    async def endpoint(tasks: Tasks) -> None:
        schedule_each(tasks, journal)
        raise HTTPException(400)

    assert await get(app, journal, "/sub/") == 400
    assert ran(journal) == FAILURE


async def test_immediate_task_of_a_failed_request(app: FastAPI, journal: Journal) -> None:
    """T6: an immediate task runs although its request fails, and may schedule on its phases."""
    answered = asyncio.Event()

    async def later(tasks: RequestTasks) -> None:
        await answered.wait()
        schedule_each(tasks, journal)

    @app.get("/")
    async def endpoint(tasks: Tasks) -> None:
        tasks.schedule(later, tasks)
        raise HTTPException(400)

    async with Server(app, journal) as server:
        await server.get("/")
        answered.set()
    assert ran(journal) == FAILURE


async def test_cancelled_endpoint(app: FastAPI, journal: Journal) -> None:
    """T6: a request that the server cancels before its response has failed."""

    @app.get("/")
    async def endpoint(tasks: Tasks) -> None:
        schedule_each(tasks, journal)
        journal.add("waits")
        server_cancels.set()
        await asyncio.Event().wait()

    server_cancels = asyncio.Event()
    async with Server(app, journal) as server:
        connection = server.open("/")
        await server_cancels.wait()
        connection.call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connection.call
    assert ran(journal) == FAILURE


async def test_middleware_cancels_the_endpoint(app: FastAPI, journal: Journal) -> None:
    """T6: an endpoint that a middleware cancels, and answers for, has failed."""
    begun = asyncio.Event()

    class Limit:
        def __init__(self, app: Callable[..., Any]) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
                return
            call = asyncio.create_task(self.app(scope, receive, send))
            await begun.wait()
            call.cancel()
            await asyncio.wait([call])
            await Response(status_code=504)(scope, receive, send)

    app.add_middleware(Limit)

    @app.get("/")
    async def endpoint(tasks: Tasks) -> None:
        schedule_each(tasks, journal)
        begun.set()
        await asyncio.Event().wait()

    assert await get(app, journal) == 504
    assert ran(journal) == FAILURE


async def test_cancelled_after_the_response(app: FastAPI, journal: Journal) -> None:
    """T6: a cancellation while the request's own background runs is no failure any more."""
    begun = asyncio.Event()

    async def background() -> None:
        begun.set()
        await asyncio.Event().wait()

    @app.get("/")
    async def endpoint(tasks: Tasks) -> Response:
        schedule_each(tasks, journal)
        return Response(background=BackgroundTask(background))

    async with Server(app, journal) as server:
        connection = server.open("/")
        await begun.wait()
        connection.call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connection.call
    assert ran(journal) == SUCCESS


async def test_cancelled_after_the_response_where_the_first_to_ask_was_a_dependency_at_its_exit(
    app: FastAPI, journal: Journal
) -> None:
    """T6: nor is it a failure if nobody had asked for tasks before the endpoint returned."""
    begun = asyncio.Event()

    async def dependency() -> AsyncIterator[None]:
        yield
        schedule_each(current_tasks(), journal)
        begun.set()
        await asyncio.Event().wait()

    @app.get("/", dependencies=[Depends(dependency)])
    async def endpoint() -> None:
        pass

    async with Server(app, journal) as server:
        connection = server.open("/")
        await begun.wait()
        connection.call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connection.call
    assert ran(journal) == SUCCESS


# -- dependencies that fail or swallow as they exit -----------------------------------------


async def swallows() -> AsyncIterator[None]:
    with suppress(Problem):
        yield


async def raises_at_exit() -> AsyncIterator[None]:
    yield
    raise Problem


def raises_http_at_exit() -> Iterator[None]:
    yield
    raise HTTPException(400)


async def translates() -> AsyncIterator[None]:
    try:
        yield
    except Problem as error:
        raise HTTPException(418) from error


@pytest.mark.parametrize("scope", ["function", "request"])
@pytest.mark.parametrize("tasks_first", [True, False])
async def test_dependency_swallows_the_endpoints_exception(
    app: FastAPI, journal: Journal, scope: Any, tasks_first: bool
) -> None:
    """T6: the endpoint raised, so the unit failed, whoever swallows that afterwards."""

    async def schedules(tasks: Tasks) -> None:
        schedule_each(tasks, journal)

    swallow = Depends(swallows, scope=scope)
    both = [Depends(schedules), swallow] if tasks_first else [swallow, Depends(schedules)]

    @app.get("/", dependencies=both)
    async def endpoint() -> None:
        raise Problem

    await fail(app, journal, Exception)  # FastAPI cannot go on without a response
    assert ran(journal) == FAILURE


@pytest.mark.parametrize("scope", ["function", "request"])
@pytest.mark.parametrize("tasks_first", [True, False])
async def test_dependency_translates_the_endpoints_exception(
    app: FastAPI, journal: Journal, scope: Any, tasks_first: bool
) -> None:
    """T6: the endpoint failed, also where a dependency makes an `HTTPException` of it."""

    async def schedules(tasks: Tasks) -> None:
        schedule_each(tasks, journal)

    translate = Depends(translates, scope=scope)
    both = [Depends(schedules), translate] if tasks_first else [translate, Depends(schedules)]

    @app.get("/", dependencies=both)
    async def endpoint() -> None:
        raise Problem

    assert await get(app, journal) == 418
    assert ran(journal) == FAILURE


@pytest.mark.parametrize("dependency", [raises_at_exit, raises_http_at_exit])
@pytest.mark.parametrize("tasks_first", [True, False])
async def test_function_scoped_dependency_raises_at_exit(
    app: FastAPI, journal: Journal, dependency: Callable[..., Any], tasks_first: bool
) -> None:
    """T6: a function-scoped dependency that raises as it exits fails the unit before any phase."""

    async def schedules(tasks: Tasks) -> None:
        schedule_each(tasks, journal)

    broken = Depends(dependency, scope="function")
    both = [Depends(schedules), broken] if tasks_first else [broken, Depends(schedules)]

    @app.get("/", dependencies=both)
    async def endpoint() -> None:
        pass

    if dependency is raises_http_at_exit:
        assert await get(app, journal) == 400
    else:
        await fail(app, journal, Problem)
    assert ran(journal) == FAILURE


@pytest.mark.parametrize("dependency", [raises_at_exit, raises_http_at_exit])
@pytest.mark.parametrize("tasks_first", [True, False])
async def test_request_scoped_dependency_raises_at_exit(
    app: FastAPI, journal: Journal, dependency: Callable[..., Any], tasks_first: bool
) -> None:
    """T6: a request-scoped dependency that raises as it exits fails what has not been reached."""

    async def schedules(tasks: Tasks) -> None:
        schedule_each(tasks, journal)

    broken = Depends(dependency, scope="request")
    both = [Depends(schedules), broken] if tasks_first else [broken, Depends(schedules)]

    @app.get("/", dependencies=both)
    async def endpoint() -> None:
        pass

    await fail(app, journal, Exception)
    assert ran(journal) == FAILURE_AFTER_ROUTE


# -- streams --------------------------------------------------------------------------------


@pytest.mark.parametrize("spec_version", ["2.3", "2.4"])
async def test_stream_fails_in_the_middle(
    app: FastAPI, journal: Journal, spec_version: str
) -> None:
    """T6: a stream that raises fails the unit between its phases."""

    async def chunks() -> AsyncIterator[str]:
        yield "a"
        raise Problem

    @app.get("/")
    async def endpoint(tasks: Tasks) -> Response:
        schedule_each(tasks, journal)
        return StreamingResponse(chunks())

    async with Server(app, journal) as server:
        with pytest.raises((Problem, ExceptionGroup)):  # old Starlettes raise it in a group
            await server.open("/", spec_version=spec_version).call
    assert ran(journal) == FAILURE_AFTER_ROUTE
    journal.assert_order("route success", "start 200", "chunk", "done", "response failure")


@pytest.mark.skipif(not find_spec("fastapi.sse"), reason="this FastAPI has no stream endpoints")
async def test_json_line_does_not_validate(app: FastAPI, journal: Journal) -> None:
    """T6: a line that does not validate fails a stream endpoint's unit."""

    async def lines(tasks: Tasks) -> AsyncIterator[int]:
        schedule_each(tasks, journal)
        yield 1
        yield "x"  # type: ignore[misc]  # what the test is about

    app.get("/")(lines)
    await fail(app, journal, ResponseValidationError)
    assert set(ran(journal)) >= {"response failure", "response always"}
    assert "response success" not in ran(journal)


async def test_client_leaves_a_stream(app: FastAPI, journal: Journal) -> None:
    """T4, T6: a client that goes away ends the request, and that is no failure."""

    async def chunks() -> AsyncIterator[str]:
        try:
            yield "a"
            await asyncio.Event().wait()
        finally:
            journal.add("stream closed")

    @app.get("/")
    async def endpoint(tasks: Tasks) -> Response:
        schedule_each(tasks, journal)
        return StreamingResponse(chunks())

    async with Server(app, journal) as server:
        connection = server.open("/")
        await connection.wait_sent("http.response.body")
        connection.give("http.disconnect")
        await connection.call
    assert ran(journal) == SUCCESS
    journal.assert_order("chunk", "stream closed", "done", "response success")


async def test_client_leaves_a_stream_and_sending_raises(app: FastAPI, journal: Journal) -> None:
    """T6: where the server raises on sending to a client that went away, it is no failure."""
    gone = asyncio.Event()

    async def chunks() -> AsyncIterator[str]:
        yield "a"
        await gone.wait()
        yield "b"

    @app.get("/")
    async def endpoint(tasks: Tasks) -> Response:
        schedule_each(tasks, journal)
        return StreamingResponse(chunks())

    async with Server(app, journal) as server:
        connection = server.open("/", spec_version="2.4")
        await connection.wait_sent("http.response.body")
        connection.lose()
        gone.set()
        with pytest.raises(ClientDisconnect):
            await connection.call
    assert ran(journal) == SUCCESS


async def test_client_leaves_before_the_response_and_sending_raises(
    app: FastAPI, journal: Journal
) -> None:
    """T6: nor is it one where the whole response could not be sent."""

    @app.get("/")
    async def endpoint(tasks: Tasks) -> None:
        schedule_each(tasks, journal)

    async with Server(app, journal) as server:
        connection = server.open("/")
        connection.lose()
        with pytest.raises(OSError, match="gone"):
            await connection.call
    assert ran(journal) == SUCCESS


@pytest.mark.parametrize("spec_version", ["2.3", "2.4"])
async def test_client_leaves_behind_middleware(
    app: FastAPI, journal: Journal, spec_version: str
) -> None:
    """T6, T7: a client that leaves a stream behind `BaseHTTPMiddleware` is no failure."""
    gone = asyncio.Event()

    async def pass_on(request: Request, call_next: RequestResponseEndpoint) -> Response:
        return await call_next(request)

    async def chunks() -> AsyncIterator[str]:
        yield "a"
        await gone.wait()
        for _ in range(10):
            yield "b"

    app.add_middleware(BaseHTTPMiddleware, dispatch=pass_on)

    @app.get("/")
    async def endpoint(tasks: Tasks) -> Response:
        schedule_each(tasks, journal)
        return StreamingResponse(chunks())

    async with Server(app, journal) as server:
        connection = server.open("/", spec_version=spec_version)
        await connection.wait_sent("http.response.body")
        connection.lose()
        connection.give("http.disconnect")
        gone.set()
        await asyncio.wait([connection.call])
        connection.call.exception()  # the server logs it, if any
    assert ran(journal) == SUCCESS


async def test_client_leaves_while_its_body_is_read(app: FastAPI, journal: Journal) -> None:
    """T6: a client that goes away before it has sent its request's body is no failure."""

    @app.post("/")
    async def endpoint(request: Request, tasks: Tasks) -> None:
        schedule_each(tasks, journal)
        async for _ in request.stream():
            raise AssertionError("nothing was sent")

    async with Server(app, journal) as server:
        connection = server.open("/", method="POST", body=None)
        connection.give("http.disconnect")
        await asyncio.wait([connection.call])
        assert isinstance(connection.call.exception(), ClientDisconnect)
    assert ran(journal) == SUCCESS


async def test_client_leaves_and_a_handler_of_the_app_is_told(
    app: FastAPI, journal: Journal
) -> None:
    """T6: nor is it a failure where the app has a handler for clients that go away."""

    @app.exception_handler(ClientDisconnect)
    async def answer(request: Request, error: ClientDisconnect) -> Response:
        return Response(status_code=499)

    @app.post("/")
    async def endpoint(request: Request, tasks: Tasks) -> None:
        schedule_each(tasks, journal)
        await request.body()

    async with Server(app, journal) as server:
        connection = server.open("/", method="POST", body=None)
        connection.give("http.disconnect")
        await connection.call
    assert ran(journal) == SUCCESS


# -- websockets -----------------------------------------------------------------------------


async def open_websocket(app: FastAPI, journal: Journal) -> BaseException | None:
    """Connect, go away, and return what the app raised."""
    async with Server(app, journal) as server:
        connection = server.open("/", kind="websocket")
        await connection.wait_sent("websocket.accept")
        connection.give("websocket.disconnect", code=1001)
        await asyncio.wait([connection.call])
        return connection.call.exception()


async def test_websocket_client_leaves(app: FastAPI, journal: Journal) -> None:
    """T4, T6: a websocket whose client went away has not failed."""

    @app.websocket("/")
    async def endpoint(websocket: WebSocket, tasks: Tasks) -> None:
        schedule_each(tasks, journal)
        await websocket.accept()
        await websocket.receive_text()

    assert isinstance(await open_websocket(app, journal), WebSocketDisconnect)
    assert ran(journal) == SUCCESS


async def test_websocket_client_leaves_a_task_group(app: FastAPI, journal: Journal) -> None:
    """T6: nor has one that heard of it in a task group, which wraps the exception."""

    @app.websocket("/")
    async def endpoint(websocket: WebSocket, tasks: Tasks) -> None:
        schedule_each(tasks, journal)
        await websocket.accept()
        async with asyncio.TaskGroup() as group:
            group.create_task(websocket.receive_text())
            group.create_task(asyncio.Event().wait())

    assert isinstance(await open_websocket(app, journal), ExceptionGroup)
    assert ran(journal) == SUCCESS


async def test_websocket_client_leaves_while_sending(app: FastAPI, journal: Journal) -> None:
    """T6: nor has one whose server raised on sending."""

    @app.websocket("/")
    async def endpoint(websocket: WebSocket, tasks: Tasks) -> None:
        schedule_each(tasks, journal)
        await websocket.accept()
        await websocket.receive_text()
        await websocket.send_text("lost")

    async with Server(app, journal) as server:
        connection = server.open("/", kind="websocket")
        await connection.wait_sent("websocket.accept")
        connection.lose()
        connection.give("websocket.receive", text="hello")
        await asyncio.wait([connection.call])
        assert isinstance(connection.call.exception(), WebSocketDisconnect)
    assert ran(journal) == SUCCESS


async def test_websocket_raises(app: FastAPI, journal: Journal) -> None:
    """T6: a websocket whose endpoint raised has failed."""

    @app.websocket("/")
    async def endpoint(websocket: WebSocket, tasks: Tasks) -> None:
        schedule_each(tasks, journal)
        await websocket.accept()
        raise Problem

    assert isinstance(await open_websocket(app, journal), Problem)
    assert ran(journal) == FAILURE


# -- where FastAPI's exit stacks are missing ------------------------------------------------


def hide_stacks(request: Request, *stacks: str) -> None:
    """Take the exit stacks out of the ASGI scope, as a FastAPI without them would."""
    for stack in stacks:
        del request.scope[stack]


STACKS = ("fastapi_function_astack", "fastapi_inner_astack")


@pytest.mark.parametrize("missing", [STACKS, STACKS[:1], STACKS[1:]])
async def test_missing_exit_stacks(
    app: FastAPI, journal: Journal, missing: tuple[str, ...]
) -> None:
    """T7: without FastAPI's exit stacks tasks run at their moments, and nothing breaks."""

    @app.get("/")
    async def endpoint(request: Request) -> None:
        hide_stacks(request, *missing)
        schedule_each(current_tasks(), journal)

    assert await get(app, journal) == 200
    assert ran(journal) == SUCCESS
    journal.assert_order("route success", "start 200", "last", "done", "response success")


async def test_missing_exit_stacks_and_an_exception(app: FastAPI, journal: Journal) -> None:
    """T6: without the stacks, what comes out of the whole app still counts as a failure."""

    @app.get("/")
    async def endpoint(request: Request) -> None:
        hide_stacks(request, *STACKS)
        schedule_each(current_tasks(), journal)
        raise Problem

    await fail(app, journal, Problem)
    assert ran(journal)[2:] == ["response failure", "response always"]


WARNS_ONCE = """
import asyncio, logging
from fastapi import FastAPI, Request
from fastapi_tasks import add_tasks, current_tasks
from tests.fastapi_tasks.server import Server

logging.basicConfig(format="%(levelname)s %(name)s")

async def main() -> None:
    for _ in range(2):
        app = FastAPI()
        add_tasks(app)

        @app.get("/")
        async def endpoint(request: Request) -> None:
            del request.scope["fastapi_function_astack"]
            current_tasks()

        async with Server(app) as server:
            await server.get("/")
            await server.get("/")

asyncio.run(main())
"""


def test_missing_exit_stacks_warn_once() -> None:
    """T6: a process says once, for all apps and requests, that failures may be missed."""
    command = [sys.executable, "-c", WARNS_ONCE]
    run = subprocess.run(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, check=True)
    assert run.stderr.splitlines() == ["WARNING fastapi_tasks"]


NEVER_WARNS = """
import asyncio, logging
from fastapi import FastAPI
from fastapi_tasks import RequestTasks, Tasks, add_tasks, current_tasks
from starlette.middleware.base import BaseHTTPMiddleware
from tests.fastapi_tasks.server import Server

logging.basicConfig(format="%(levelname)s %(name)s")

async def main() -> None:
    app = FastAPI()
    add_tasks(app)

    async def dispatch(request, call_next):
        current_tasks()
        return await call_next(request)

    app.add_middleware(BaseHTTPMiddleware, dispatch=dispatch)

    async def later() -> None:
        current_tasks()

    @app.get("/")
    async def endpoint(tasks: Tasks) -> None:
        tasks.after_response.schedule(later)

    async with Server(app) as server:
        await server.get("/")
        await server.get("/nowhere")

asyncio.run(main())
"""


def test_middleware_and_tasks_do_not_warn() -> None:
    """T6: where the stacks are not there yet, or not any more, nothing is amiss."""
    command = [sys.executable, "-c", NEVER_WARNS]
    run = subprocess.run(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, check=True)
    assert run.stderr == ""


async def test_tasks_of_an_exception_handler(journal: Journal) -> None:
    """T6: a handler that schedules knows of the failure, though the endpoint asked for nothing."""
    app = FastAPI()
    add_tasks(app)

    @app.exception_handler(Problem)
    async def answer(request: Request, error: Problem) -> Response:
        schedule_each(current_tasks(), journal)
        return Response(status_code=418)

    @app.exception_handler(KeyError)
    def answer_in_a_thread(request: Request, error: KeyError) -> Response:
        schedule_each(current_tasks(), journal)
        return Response(status_code=418)

    @app.get("/{kind}")
    async def endpoint(kind: str) -> None:
        raise Problem if kind == "async" else KeyError(kind)

    async with Server(app, journal) as server:
        for path in ("/async", "/plain"):
            connection = server.open(path)
            await connection.call
            assert connection.status == 418
    assert sorted(ran(journal)) == sorted(FAILURE * 2)
    assert answer in app.exception_handlers.values()


async def test_exception_handler_that_is_an_object(journal: Journal) -> None:
    """T6: an async handler need not be a function: an object or a partial answers as before."""
    app = FastAPI()
    add_tasks(app)

    class Answer:
        async def __call__(self, request: Request, error: Exception) -> Response:
            schedule_each(current_tasks(), journal)
            return Response(status_code=418)

    async def answer(status: int, request: Request, error: Exception) -> Response:
        schedule_each(current_tasks(), journal)
        return Response(status_code=status)

    app.add_exception_handler(Problem, Answer())
    app.add_exception_handler(KeyError, partial(answer, 418))

    @app.get("/{kind}")
    async def endpoint(kind: str) -> None:
        raise Problem if kind == "object" else KeyError(kind)

    async with Server(app, journal) as server:
        for path in ("/object", "/partial"):
            connection = server.open(path)
            await connection.call
            assert connection.status == 418
    assert ran(journal) == FAILURE * 2
