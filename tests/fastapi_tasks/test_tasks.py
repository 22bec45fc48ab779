"""The moments of a request: what `Tasks` starts when, in every kind of response."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import pytest
from fastapi import BackgroundTasks, Depends, FastAPI, Request, Response, WebSocket
from fastapi.responses import FileResponse, StreamingResponse
from starlette.background import BackgroundTask
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.middleware.gzip import GZipMiddleware

from fastapi_tasks import RequestTasks, Tasks, add_tasks
from taskcore import current_scope
from tests.fastapi_tasks.server import Server, note
from tests.helpers import Journal

ORDER = ["endpoint", "now", "after_route", "start 200", "last", "done", "after_response"]


def schedule_each(tasks: RequestTasks, journal: Journal) -> None:
    """Schedule a task at each of the three moments, the latest first."""
    tasks.after_response.schedule(note, journal, "after_response")
    tasks.after_route.schedule(note, journal, "after_route")
    tasks.schedule(note, journal, "now")


async def get(app: FastAPI, journal: Journal) -> None:
    async with Server(app, journal) as server:
        await server.get("/")


# -- the three moments --------------------------------------------------------------------


async def test_async_endpoint(app: FastAPI, journal: Journal) -> None:
    """T2, T3, T4, T7: tasks of an `async def` endpoint start at the moment that was chosen."""

    @app.get("/")
    async def endpoint(tasks: Tasks) -> None:
        journal.add("endpoint")
        schedule_each(tasks, journal)

    await get(app, journal)
    assert journal.events == ORDER


async def test_def_endpoint(app: FastAPI, journal: Journal) -> None:
    """T2, T3, T4, T7, I8: tasks of a `def` endpoint, in its thread, start at their moments."""

    @app.get("/")
    def endpoint(tasks: Tasks) -> None:
        journal.add("endpoint")
        schedule_each(tasks, journal)

    await get(app, journal)
    assert journal.events == ORDER


async def test_order_inside_a_phase(app: FastAPI, journal: Journal) -> None:
    """T2: inside a phase, tasks of dependencies and of the endpoint start as scheduled."""

    async def dependency(tasks: Tasks) -> None:
        tasks.after_route.schedule(note, journal, "route 1")
        tasks.after_response.schedule(note, journal, "response 1")

    @app.get("/", dependencies=[Depends(dependency)])
    async def endpoint(tasks: Tasks) -> None:
        tasks.after_response.schedule(note, journal, "response 2")
        tasks.after_route.schedule(note, journal, "route 2")
        tasks.after_route.schedule(note, journal, "route 3")

    await get(app, journal)
    assert journal.events == [
        *("route 1", "route 2", "route 3", "start 200", "last", "done"),
        *("response 1", "response 2"),
    ]


async def test_phases_and_dependencies(app: FastAPI, journal: Journal) -> None:
    """T3, T4: function-scoped dependencies exit before `after_route`, request-scoped ones later."""

    async def function_scoped() -> AsyncIterator[None]:
        yield
        await asyncio.sleep(0)
        journal.add("function exit")

    def request_scoped() -> Iterator[None]:
        yield
        journal.add("request exit")

    @app.get("/")
    async def endpoint(
        first: Annotated[None, Depends(function_scoped, scope="function")],
        second: Annotated[None, Depends(request_scoped, scope="request")],
        tasks: Tasks,
    ) -> None:
        journal.add("endpoint")
        tasks.after_route.schedule(note, journal, "after_route")
        tasks.after_response.schedule(note, journal, "after_response")

    await get(app, journal)
    assert journal.events == [
        *("endpoint", "function exit", "after_route", "start 200", "last"),
        *("request exit", "done", "after_response"),
    ]


async def test_after_response_sees_what_a_dependency_committed(app: FastAPI) -> None:
    """T4: a task finds what a request-scoped dependency commits as it exits."""
    stored: list[str] = []
    seen: list[str] = []

    async def session() -> AsyncIterator[list[str]]:
        pending: list[str] = []
        yield pending
        await asyncio.sleep(0)
        stored.extend(pending)

    async def look() -> None:
        seen.extend(stored)

    @app.get("/")
    async def endpoint(session: Annotated[list[str], Depends(session)], tasks: Tasks) -> None:
        tasks.after_response.schedule(look)
        session.append("order")

    await get(app, Journal())
    assert seen == ["order"]


async def test_no_task_delays_the_response(app: FastAPI, journal: Journal) -> None:
    """T3: the response is complete while the tasks of every moment have begun and go on."""
    release = asyncio.Event()

    async def wait(name: str) -> None:
        journal.add(f"{name} begins")
        await release.wait()
        journal.add(f"{name} ends")

    @app.get("/")
    async def endpoint(tasks: Tasks) -> None:
        tasks.schedule(wait, "now")
        tasks.after_route.schedule(wait, "after_route")

    async with Server(app, journal) as server:
        await server.get("/")
        release.set()
    assert journal.events == [
        *("now begins", "after_route begins", "start 200", "last", "done"),
        *("now ends", "after_route ends"),
    ]


async def test_after_route_task_that_blocks_in_its_thread(app: FastAPI, journal: Journal) -> None:
    """T3, I5: a plain function that blocks delays no response."""
    release = threading.Event()

    def block() -> None:
        release.wait()
        journal.add("released")

    @app.get("/")
    async def endpoint(tasks: Tasks) -> None:
        tasks.after_route.schedule(block)

    async with Server(app, journal) as server:
        await server.get("/")
        release.set()
    assert journal.events == ["start 200", "last", "done", "released"]


async def test_handle_can_be_awaited_in_the_endpoint(app: FastAPI) -> None:
    """T1: the endpoint may wait for its own immediate task and use the result."""

    async def add(left: int, right: int) -> int:
        return left + right

    @app.get("/")
    async def endpoint(tasks: Tasks) -> int:
        return await tasks.schedule(add, 1, right=2)

    async with Server(app) as server:
        assert (await server.get("/")).json() == 3


async def test_scope_of_tasks(app: FastAPI) -> None:
    """`tasks.scope` is the app's scope, whose tasks belong to no moment of the request."""

    @app.get("/")
    async def endpoint(tasks: Tasks) -> None:
        assert tasks.scope is current_scope()
        assert tasks.scope.name == "FastAPI"

    await get(app, Journal())


async def test_options_at_each_moment(app: FastAPI) -> None:
    """Options given to `task` at any moment are those of the task."""

    @app.get("/")
    async def endpoint(tasks: Tasks) -> None:
        for scheduler in (tasks, tasks.after_route, tasks.after_response):
            task = scheduler.task(name="charge", shield=True).schedule(asyncio.sleep, 0)
            assert task.name == "charge"
            assert task.config.shielded

    await get(app, Journal())


# -- phases already reached, and every place to schedule from -------------------------------


async def test_schedule_from_dependencies(app: FastAPI, journal: Journal) -> None:
    """T5, T7: plain and `yield` dependencies of both scopes schedule as they enter and exit."""

    def plain(tasks: Tasks) -> None:
        tasks.after_route.schedule(note, journal, "plain")

    async def function_scoped(
        tasks: Tasks, sub: Annotated[None, Depends(plain)]
    ) -> AsyncIterator[None]:
        tasks.after_route.schedule(note, journal, "function enter")
        yield
        tasks.after_route.schedule(note, journal, "function exit")

    async def request_scoped(tasks: Tasks) -> AsyncIterator[None]:
        tasks.after_response.schedule(note, journal, "request enter")
        yield
        await tasks.after_route.schedule(note, journal, "request exit, reached phase")
        tasks.after_response.schedule(note, journal, "request exit")

    @app.get("/")
    async def endpoint(
        first: Annotated[None, Depends(function_scoped, scope="function")],
        second: Annotated[None, Depends(request_scoped, scope="request")],
    ) -> None:
        journal.add("endpoint")

    await get(app, journal)
    assert journal.events == [
        *("endpoint", "plain", "function enter", "function exit", "start 200", "last"),
        *("request exit, reached phase", "done", "request enter", "request exit"),
    ]


async def test_schedule_from_def_yield_dependency(app: FastAPI, journal: Journal) -> None:
    """T5, T7, I8: a `def` dependency with `yield` schedules from its threads."""

    def dependency(tasks: Tasks) -> Iterator[None]:
        tasks.after_route.schedule(note, journal, "enter")
        yield
        tasks.after_route.schedule(note, journal, "exit, reached phase")
        tasks.after_response.schedule(note, journal, "exit")

    @app.get("/", dependencies=[Depends(dependency)])
    def endpoint() -> None:
        journal.add("endpoint")

    await get(app, journal)
    journal.assert_order("endpoint", "enter", "start 200", "last", "done", "exit")
    journal.assert_order("last", "exit, reached phase", "exit")


async def test_task_schedules_on_reached_phases(app: FastAPI, journal: Journal) -> None:
    """T5: a running task that schedules on phases of its request starts others at once."""
    answered = asyncio.Event()

    async def later(tasks: RequestTasks) -> None:
        await answered.wait()
        tasks.after_route.schedule(note, journal, "route")
        tasks.after_response.schedule(note, journal, "response")

    @app.get("/")
    async def endpoint(tasks: Tasks) -> None:
        tasks.schedule(later, tasks)

    async with Server(app, journal) as server:
        await server.get("/")
        answered.set()
    assert journal.events == ["start 200", "last", "done", "route", "response"]


@pytest.mark.parametrize("spec_version", ["2.3", "2.4"])
async def test_schedule_from_threads_after_the_response(
    app: FastAPI, journal: Journal, spec_version: str
) -> None:
    """T5, I8: threads that outlive the request schedule on its reached phases, and it starts."""
    answered = threading.Event()
    threads: list[threading.Thread] = []

    def later(tasks: RequestTasks) -> None:
        answered.wait()
        tasks.after_route.schedule(note, journal, "route")
        tasks.after_response.schedule(note, journal, "response")

    @app.get("/")
    async def endpoint(tasks: Tasks) -> None:
        threads.append(threading.Thread(target=later, args=(tasks,)))
        threads[0].start()

    async with Server(app, journal) as server:
        await server.open("/", spec_version=spec_version).call
        answered.set()
        await asyncio.to_thread(threads[0].join)
    assert journal.events == ["start 200", "last", "done", "route", "response"]


async def test_schedule_from_to_thread_in_the_endpoint(app: FastAPI, journal: Journal) -> None:
    """I8: a thread that the endpoint waits for schedules at each moment."""

    @app.get("/")
    async def endpoint(tasks: Tasks) -> None:
        journal.add("endpoint")
        await asyncio.to_thread(schedule_each, tasks, journal)

    await get(app, journal)
    assert journal.events == ORDER


# -- kinds of responses ---------------------------------------------------------------------


@pytest.mark.parametrize("spec_version", ["2.3", "2.4"])
async def test_async_stream(app: FastAPI, journal: Journal, spec_version: str) -> None:
    """T4, T5, T7: the end of a stream is the response's end; its generator schedules as well."""

    async def chunks(tasks: RequestTasks) -> AsyncIterator[str]:
        await tasks.after_route.schedule(note, journal, "reached phase")
        tasks.after_response.schedule(note, journal, "after_response, from the stream")
        yield "a"
        await tasks.schedule(note, journal, "now")
        yield "b"

    @app.get("/")
    async def endpoint(tasks: Tasks) -> Response:
        tasks.after_route.schedule(note, journal, "after_route")
        tasks.after_response.schedule(note, journal, "after_response")
        return StreamingResponse(chunks(tasks))

    async with Server(app, journal) as server:
        await server.open("/", spec_version=spec_version).call
    assert journal.events == [
        *("after_route", "start 200", "reached phase", "chunk", "now", "chunk", "last", "done"),
        *("after_response", "after_response, from the stream"),
    ]


async def test_sync_stream(app: FastAPI, journal: Journal) -> None:
    """T4, T5, T7, I8: a plain generator schedules from the threads that it runs in."""

    def chunks(tasks: RequestTasks) -> Iterator[str]:
        tasks.after_route.schedule(note, journal, "reached phase")
        tasks.after_response.schedule(note, journal, "after_response")
        yield "a"

    @app.get("/")
    def endpoint(tasks: Tasks) -> Response:
        tasks.after_route.schedule(note, journal, "after_route")
        return StreamingResponse(chunks(tasks))

    await get(app, journal)
    journal.assert_order("after_route", "start 200", "reached phase", "last")
    journal.assert_order("start 200", "chunk", "last", "done", "after_response")


async def test_file_response(app: FastAPI, journal: Journal, tmp_path: Path) -> None:
    """T3, T4, T7: tasks run around a file as around any response."""
    path = tmp_path / "file.txt"
    path.write_text("content")

    @app.get("/")
    async def endpoint(tasks: Tasks) -> FileResponse:
        journal.add("endpoint")
        schedule_each(tasks, journal)
        return FileResponse(path)

    async with Server(app, journal) as server:
        assert (await server.get("/")).body == b"content"
    assert journal.events == ORDER


@pytest.mark.skipif(not find_spec("fastapi.sse"), reason="this FastAPI has no stream endpoints")
@pytest.mark.parametrize("is_async", [True, False])
async def test_json_lines_endpoint(app: FastAPI, journal: Journal, is_async: bool) -> None:
    """T4, T5, T7: an endpoint that is a generator of JSON lines schedules as it goes."""

    async def lines(tasks: Tasks) -> AsyncIterator[int]:
        schedule_each(tasks, journal)
        yield 1
        yield 2

    def lines_in_threads(tasks: Tasks) -> Iterator[int]:
        schedule_each(tasks, journal)
        yield 1
        yield 2

    if is_async:
        app.get("/")(lines)
    else:
        app.get("/")(lines_in_threads)

    async with Server(app, journal) as server:
        assert (await server.get("/")).body == b"1\n2\n"
    journal.assert_order("start 200", "after_route", "last", "done", "after_response")
    journal.assert_order("start 200", "now", "last")


@pytest.mark.skipif(not find_spec("fastapi.sse"), reason="this FastAPI has no stream endpoints")
@pytest.mark.parametrize("is_async", [True, False])
async def test_server_sent_events_endpoint(app: FastAPI, journal: Journal, is_async: bool) -> None:
    """T4, T5, T7: an endpoint that generates server-sent events schedules as it goes."""
    from fastapi.sse import EventSourceResponse

    async def events(tasks: Tasks) -> AsyncIterator[str]:
        schedule_each(tasks, journal)
        yield "a"
        yield "b"

    def events_in_threads(tasks: Tasks) -> Iterator[str]:
        schedule_each(tasks, journal)
        yield "a"
        yield "b"

    if is_async:
        app.get("/", response_class=EventSourceResponse)(events)
    else:
        app.get("/", response_class=EventSourceResponse)(events_in_threads)

    async with Server(app, journal) as server:
        response = await server.get("/")
    assert response.body == b'data: "a"\n\ndata: "b"\n\n'
    journal.assert_order("start 200", "last", "done", "after_response")
    journal.assert_order("now", "done")
    journal.assert_order("after_route", "done")


async def test_background_tasks_come_first(app: FastAPI, journal: Journal) -> None:
    """T4, T7: `BackgroundTasks` belong to the request; `after_response` comes after them."""

    async def request_scoped() -> AsyncIterator[None]:
        yield
        journal.add("request exit")

    @app.get("/", dependencies=[Depends(request_scoped)])
    async def endpoint(background: BackgroundTasks, tasks: Tasks) -> None:
        tasks.after_response.schedule(note, journal, "after_response")
        background.add_task(note, journal, "background")

    await get(app, journal)
    assert journal.events == [
        *("start 200", "last", "background", "request exit", "done", "after_response")
    ]


async def test_background_of_a_response_comes_first(app: FastAPI, journal: Journal) -> None:
    """T4, T7: a response's own background runs before `after_response`, and is not lost."""

    @app.get("/")
    async def endpoint(tasks: Tasks) -> Response:
        schedule_each(tasks, journal)
        return Response(background=BackgroundTask(note, journal, "background"))

    await get(app, journal)
    assert journal.events == [
        *("now", "after_route", "start 200", "last", "background", "done", "after_response")
    ]


async def test_background_task_schedules(app: FastAPI, journal: Journal) -> None:
    """T5: what a `BackgroundTasks` function schedules starts at its moment."""

    async def background(tasks: RequestTasks) -> None:
        await tasks.after_route.schedule(note, journal, "reached phase")
        tasks.after_response.schedule(note, journal, "after_response")

    @app.get("/")
    async def endpoint(runner: BackgroundTasks, tasks: Tasks) -> None:
        runner.add_task(background, tasks)

    await get(app, journal)
    assert journal.events == ["start 200", "last", "reached phase", "done", "after_response"]


# -- middleware -----------------------------------------------------------------------------


async def pass_on(request: Request, call_next: RequestResponseEndpoint) -> Response:
    return await call_next(request)


@pytest.mark.parametrize("before", [True, False])
async def test_behind_base_http_middleware(journal: Journal, before: bool) -> None:
    """T3, T4, T7: moments are exact behind `BaseHTTPMiddleware`, added first or last."""
    app = FastAPI()
    if before:
        app.add_middleware(BaseHTTPMiddleware, dispatch=pass_on)
    add_tasks(app)
    if not before:
        app.add_middleware(BaseHTTPMiddleware, dispatch=pass_on)

    @app.get("/")
    async def endpoint(tasks: Tasks) -> None:
        journal.add("endpoint")
        schedule_each(tasks, journal)

    await get(app, journal)
    events = [event for event in journal.events if event != "chunk"]  # it sends body and end apart
    assert events == ORDER


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("minimum_size", [1, 100_000])
async def test_behind_gzip_middleware(journal: Journal, before: bool, minimum_size: int) -> None:
    """T3, T4, T7: moments are exact behind `GZipMiddleware`, added first or last."""
    app = FastAPI()
    if before:
        app.add_middleware(GZipMiddleware, minimum_size=minimum_size)
    add_tasks(app)
    if not before:
        app.add_middleware(GZipMiddleware, minimum_size=minimum_size)

    @app.get("/")
    async def endpoint(tasks: Tasks) -> str:
        journal.add("endpoint")
        schedule_each(tasks, journal)
        return "text" * 100

    await get(app, journal)
    assert journal.events == ORDER


async def test_stream_behind_both_middlewares(app: FastAPI, journal: Journal) -> None:
    """T3, T4, T7: a stream behind both middlewares keeps its moments."""
    app.add_middleware(GZipMiddleware, minimum_size=1)
    app.add_middleware(BaseHTTPMiddleware, dispatch=pass_on)

    async def chunks(tasks: RequestTasks) -> AsyncIterator[bytes]:
        tasks.after_response.schedule(note, journal, "after_response")
        yield b"a" * 1000
        yield b"b" * 1000

    @app.get("/")
    async def endpoint(tasks: Tasks) -> Response:
        tasks.after_route.schedule(note, journal, "after_route")
        return StreamingResponse(chunks(tasks))

    await get(app, journal)
    journal.assert_order("after_route", "start 200", "last", "done", "after_response")


async def test_middleware_answers_itself(app: FastAPI, journal: Journal) -> None:
    """T7: a request that no endpoint sees passes as it would without tasks."""

    async def answer(request: Request, call_next: RequestResponseEndpoint) -> Response:
        return Response(status_code=418)

    app.add_middleware(BaseHTTPMiddleware, dispatch=answer)
    await get(app, journal)
    assert journal.events[0] == "start 418"


# -- websockets -----------------------------------------------------------------------------


async def test_websocket(app: FastAPI, journal: Journal) -> None:
    """T4, T7: both phases of a websocket are reached at the end of its endpoint."""

    async def request_scoped() -> AsyncIterator[None]:
        yield
        journal.add("request exit")

    @app.websocket("/")
    async def endpoint(
        websocket: WebSocket, tasks: Tasks, scoped: Annotated[None, Depends(request_scoped)]
    ) -> None:
        await websocket.accept()
        schedule_each(tasks, journal)
        text = await websocket.receive_text()
        await websocket.send_text(text)
        await websocket.close()
        journal.add("endpoint")

    async with Server(app, journal) as server:
        connection = server.open("/", kind="websocket")
        await connection.wait_sent("websocket.accept")
        connection.give("websocket.receive", text="hello")
        await connection.call
    journal.assert_order(
        *("websocket.accept", "websocket.send", "websocket.close", "endpoint", "request exit"),
        *("done", "after_route", "after_response"),
    )
    journal.assert_order("websocket.accept", "now", "done")


async def test_endpoint_that_awaits_what_comes_after_it(app: FastAPI, journal: Journal) -> None:
    """I7: an endpoint that awaits a task of its own next phase would hang, and is told so."""

    async def elsewhere(tasks: RequestTasks) -> None:
        await tasks.after_response.schedule(journal.add, "awaited in another task")
        journal.add("awaited")

    @app.get("/")
    async def endpoint(tasks: Tasks) -> None:
        tasks.schedule(elsewhere, tasks)
        for phase in (tasks.after_route, tasks.after_response):
            with pytest.raises(RuntimeError, match="await it in another task"):
                await phase.schedule(journal.add, phase.name)

    async with Server(app, journal) as server:
        await server.get("/")
    assert {"after_route", "after_response", "awaited in another task", "awaited"} <= set(
        journal.events
    )
