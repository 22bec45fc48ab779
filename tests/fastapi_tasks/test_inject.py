"""`Tasks` as a parameter wherever FastAPI injects, and `current_tasks()` everywhere below."""

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Annotated, Any, get_type_hints

import pytest
from fastapi import APIRouter, Depends, FastAPI, WebSocket
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from fastapi_tasks import (
    RequestTasks,
    Task,
    TaskConfig,
    TaskErrorHandler,
    Tasks,
    add_tasks,
    current_tasks,
)
from fastapi_tasks.errors import FastAPITasksLifespanError, FastAPITasksUninitializedAppError
from taskcore import Phase, current_scope, current_task
from taskcore.errors import (
    ConfigValueError,
    InvalidCallError,
    NoCurrentScopeError,
    ScopeClosedError,
    WrongLoopError,
)
from tests.fastapi_tasks.server import Server, note
from tests.helpers import Journal

who: ContextVar[str] = ContextVar("who", default="nobody")


# -- where it can be injected ---------------------------------------------------------------


def test_test_client(app: FastAPI, journal: Journal) -> None:
    """T7: the framework's own test client, used as a context manager, needs nothing more."""

    @app.get("/")
    async def endpoint(tasks: Tasks) -> str:
        tasks.after_response.schedule(note, journal, "after_response")
        return "answer"

    with TestClient(app) as client:
        assert client.get("/").json() == "answer"
    assert journal.events == ["after_response"]


def test_test_client_websocket(app: FastAPI, journal: Journal) -> None:
    """T7: websockets of the test client as well."""

    @app.websocket("/")
    async def endpoint(websocket: WebSocket, tasks: Tasks) -> None:
        await websocket.accept()
        tasks.after_response.schedule(note, journal, "after_response")
        await websocket.send_text(await tasks.schedule(asyncio.sleep, 0, "hello"))
        await websocket.close()

    with TestClient(app) as client, client.websocket_connect("/") as websocket:
        assert websocket.receive_text() == "hello"
    assert journal.events == ["after_response"]


async def test_httpx2(app: FastAPI, journal: Journal) -> None:
    """T7: so does an ASGI client, where something runs the lifespan."""
    httpx2 = pytest.importorskip("httpx2")

    @app.get("/")
    def endpoint(tasks: Tasks) -> str:
        tasks.after_response.schedule(note, journal, "after_response")
        return "answer"

    transport = httpx2.ASGITransport(app)
    async with Server(app), httpx2.AsyncClient(transport=transport) as client:
        assert (await client.get("http://test/")).json() == "answer"
    assert journal.events == ["after_response"]


async def test_sub_dependencies(app: FastAPI, journal: Journal) -> None:
    """T2, T7: endpoint, sub-dependencies and `current_tasks` schedule on the same moments."""

    async def sub(tasks: Tasks) -> RequestTasks:
        return tasks

    async def dependency(tasks: Annotated[RequestTasks, Depends(sub)]) -> RequestTasks:
        return tasks

    @app.get("/")
    async def endpoint(tasks: Tasks, others: Annotated[RequestTasks, Depends(dependency)]) -> None:
        others.after_response.schedule(note, journal, "sub-dependency")
        tasks.after_response.schedule(note, journal, "endpoint")
        current_tasks().after_response.schedule(note, journal, "current_tasks")

    async with Server(app, journal) as server:
        await server.get("/")
    assert journal.events[-3:] == ["sub-dependency", "endpoint", "current_tasks"]


async def test_dependency_of_app_and_router(journal: Journal) -> None:
    """T7: dependencies of the app, of a router and of a nested router get the request's tasks."""

    def noting(name: str) -> Any:
        async def dependency(tasks: Tasks) -> None:
            tasks.after_response.schedule(note, journal, name)

        return Depends(dependency)

    app = FastAPI(dependencies=[noting("app")])
    add_tasks(app)
    outer = APIRouter(prefix="/outer", dependencies=[noting("outer")])
    inner = APIRouter(prefix="/inner", dependencies=[noting("inner")])

    @inner.get("/")
    async def endpoint(tasks: Tasks) -> None:
        tasks.after_response.schedule(note, journal, "endpoint")

    outer.include_router(inner)
    app.include_router(outer)
    async with Server(app, journal) as server:
        await server.get("/outer/inner/")
    assert journal.events[3:] == ["app", "outer", "inner", "endpoint"]


async def test_dependency_override(app: FastAPI, journal: Journal) -> None:
    """T7: a dependency that overrides another gets the tasks as well."""

    async def original() -> None:
        raise AssertionError("overridden")

    async def override(tasks: Tasks) -> None:
        tasks.after_route.schedule(note, journal, "override")

    app.dependency_overrides[original] = override

    @app.get("/", dependencies=[Depends(original)])
    async def endpoint() -> None: ...

    async with Server(app, journal) as server:
        await server.get("/")
    assert journal.events[0] == "override"


async def test_class_as_dependency(app: FastAPI, journal: Journal) -> None:
    """T7: a class whose `__init__` takes `Tasks` is a dependency as any other."""

    class Mailer:
        def __init__(self, tasks: Tasks) -> None:
            self.tasks = tasks

        def send(self) -> None:
            self.tasks.after_response.schedule(note, journal, "mail")

    @app.get("/")
    async def endpoint(mailer: Annotated[Mailer, Depends(Mailer)]) -> None:
        mailer.send()

    async with Server(app, journal) as server:
        await server.get("/")
    assert journal.events[-1] == "mail"


# -- what FastAPI and type checkers see -------------------------------------------------------


def items_app() -> FastAPI:
    app = FastAPI()

    @app.post("/items/{item}")
    async def create_item(item: int, q: str = "") -> list[int]:
        """Create an item."""
        return [item]

    return app


def items_app_with_tasks() -> FastAPI:
    app = FastAPI()
    add_tasks(app)

    @app.post("/items/{item}")
    async def create_item(item: int, tasks: Tasks, q: str = "") -> list[int]:
        """Create an item."""
        return [item]

    return app


def test_openapi_schema() -> None:
    """T7: the OpenAPI schema of a route is the same with `Tasks` as without."""
    schema = items_app_with_tasks().openapi()
    assert schema == items_app().openapi()
    assert list(schema["paths"]) == ["/items/{item}"]


def test_type_hints() -> None:
    """The annotation can be evaluated at run time, as are those of the adapter's own names."""

    def endpoint(tasks: "Tasks") -> None: ...

    assert get_type_hints(endpoint, include_extras=True)["tasks"] is Tasks
    assert get_type_hints(endpoint)["tasks"] is RequestTasks
    assert get_type_hints(current_tasks)["return"] is RequestTasks
    assert get_type_hints(add_tasks)["app"] is FastAPI
    for moment in (RequestTasks.after_route, RequestTasks.after_response):
        assert isinstance(moment, property)
        assert get_type_hints(moment.fget)["return"] is Phase


@pytest.mark.parametrize("exported", [RequestTasks, Task, TaskConfig])
def test_type_hints_of_exported_classes(exported: type) -> None:
    """Whatever reads annotations at run time can read those of the exported classes."""
    assert get_type_hints(exported) or exported is RequestTasks


def test_error_handler_as_an_annotation() -> None:
    """`TaskErrorHandler` can be combined in an annotation that is evaluated at run time."""

    def endpoint(on_error: TaskErrorHandler | None) -> None: ...

    assert type(None) in get_type_hints(endpoint)["on_error"].__args__


# -- current_tasks() --------------------------------------------------------------------------


def schedule_deep_inside(journal: Journal, event: str) -> None:
    current_tasks().after_response.schedule(note, journal, event)


async def test_current_tasks_from_everywhere_below(app: FastAPI, journal: Journal) -> None:
    """T5, I8: `current_tasks()` works in calls, threads, asyncio tasks and tasks of the request."""

    async def dependency() -> AsyncIterator[None]:
        schedule_deep_inside(journal, "dependency")
        yield
        schedule_deep_inside(journal, "dependency exit")

    async def task() -> None:
        schedule_deep_inside(journal, "task")
        await asyncio.to_thread(schedule_deep_inside, journal, "thread of a task")

    async def stream() -> AsyncIterator[str]:
        schedule_deep_inside(journal, "stream")
        yield ""

    @app.get("/", dependencies=[Depends(dependency)])
    async def endpoint() -> Response:
        schedule_deep_inside(journal, "endpoint")
        await asyncio.to_thread(schedule_deep_inside, journal, "thread")
        await asyncio.create_task(note_in_task())
        await current_tasks().schedule(task)
        await current_tasks().schedule(schedule_deep_inside, journal, "task in a thread")
        return StreamingResponse(stream())

    async def note_in_task() -> None:
        schedule_deep_inside(journal, "asyncio task")

    async with Server(app, journal) as server:
        await server.get("/")
    after = journal.events[journal.events.index("done") + 1 :]
    assert after == [
        *("dependency", "endpoint", "thread", "asyncio task", "task", "thread of a task"),
        *("task in a thread", "stream", "dependency exit"),
    ]


async def test_current_tasks_in_def_endpoint(app: FastAPI, journal: Journal) -> None:
    """I8: `current_tasks()` works in the thread of a `def` endpoint."""

    @app.get("/")
    def endpoint() -> None:
        schedule_deep_inside(journal, "endpoint")

    async with Server(app, journal) as server:
        await server.get("/")
    assert journal.events[-1] == "endpoint"


async def test_current_tasks_in_a_starlette_route(app: FastAPI, journal: Journal) -> None:
    """T7: a plain Starlette route, where FastAPI injects nothing, has its request's tasks."""

    async def endpoint(request: Request) -> Response:
        schedule_deep_inside(journal, "endpoint")
        return PlainTextResponse("")

    app.router.routes.append(Route("/", endpoint))
    async with Server(app, journal) as server:
        await server.get("/")
    assert journal.events == ["start 200", "last", "done", "endpoint"]


async def test_current_tasks_after_the_request(app: FastAPI, journal: Journal) -> None:
    """T5: a task that outlives its request still has that request's tasks."""
    answered = asyncio.Event()

    async def later() -> None:
        await answered.wait()
        schedule_deep_inside(journal, "later")

    @app.get("/")
    async def endpoint() -> None:
        current_tasks().schedule(later)

    async with Server(app, journal) as server:
        await server.get("/")
        answered.set()
    assert journal.events == ["start 200", "last", "done", "later"]


async def test_requests_do_not_mix(app: FastAPI, journal: Journal) -> None:
    """`current_tasks()` of two requests at the same time are each request's own."""
    both = asyncio.Barrier(2)

    @app.get("/{name}")
    async def endpoint(name: str) -> None:
        await both.wait()
        schedule_deep_inside(journal, name)
        await both.wait()
        current_tasks().schedule(note, journal, f"{name} now")

    async with Server(app) as server:
        await asyncio.gather(server.get("/a"), server.get("/b"))
    assert sorted(map(str, journal.events)) == ["a", "a now", "b", "b now"]


async def test_current_scope_below_a_request(app: FastAPI) -> None:
    """`current_scope()` in a request and in its tasks is the app's, and none after it."""
    scopes: list[object] = []

    async def look() -> None:
        assert current_task().name == "look"
        scopes.append(current_scope())

    @app.get("/")
    async def endpoint(tasks: Tasks) -> None:
        scopes.append(current_scope())
        await tasks.task(name="look").schedule(look)
        assert await asyncio.to_thread(current_scope) is scopes[0]

    async with Server(app) as server:
        await server.get("/")
    assert scopes[0] is scopes[1]
    with pytest.raises(NoCurrentScopeError):
        current_scope()


# -- contextvars ------------------------------------------------------------------------------


@pytest.mark.parametrize("is_async", [True, False])
@pytest.mark.parametrize("task_is_async", [True, False])
async def test_contextvars(
    app: FastAPI, journal: Journal, is_async: bool, task_is_async: bool
) -> None:
    """I4: a task sees the context variables as they were at `schedule`, in every phase."""

    async def look(moment: str) -> None:
        journal.add((moment, who.get()))

    def look_in_thread(moment: str) -> None:
        journal.add((moment, who.get()))

    def schedule_each(tasks: RequestTasks) -> None:
        func = look if task_is_async else look_in_thread
        for name in "ada", "bob":
            who.set(name)
            tasks.schedule(func, f"now {name}")
            tasks.after_route.schedule(func, f"after_route {name}")
            tasks.after_response.schedule(func, f"after_response {name}")
        who.set("changed later")

    async def endpoint(tasks: Tasks) -> None:
        schedule_each(tasks)

    def endpoint_in_thread(tasks: Tasks) -> None:
        schedule_each(tasks)

    if is_async:
        app.get("/")(endpoint)
    else:
        app.get("/")(endpoint_in_thread)
    async with Server(app) as server:
        await server.get("/")
    assert sorted(map(str, journal.events)) == sorted(
        str((f"{moment} {name}", name))
        for moment in ("now", "after_route", "after_response")
        for name in ("ada", "bob")
    )


# -- blocked threads --------------------------------------------------------------------------


async def test_thousand_blocked_functions(app: FastAPI) -> None:
    """I5: a `def` endpoint answers while a thousand background functions block."""
    release = threading.Event()
    ended: list[int] = []

    def block(number: int) -> None:
        release.wait()
        ended.append(number)

    @app.get("/block")
    async def start(tasks: Tasks) -> None:
        for number in range(1000):
            tasks.schedule(block, number)

    @app.get("/")
    def endpoint() -> str:
        return "answer"

    try:
        async with Server(app) as server:
            await server.get("/block")
            responses = await asyncio.gather(*(server.get("/") for _ in range(50)))
            assert {response.json() for response in responses} == {"answer"}
            assert ended == []
            release.set()
    finally:
        release.set()
    assert sorted(ended) == list(range(1000))


# -- wrong use --------------------------------------------------------------------------------


def test_app_without_add_tasks() -> None:
    """I7: `Tasks` in an app without `add_tasks` says to call it."""
    app = FastAPI()

    @app.get("/")
    async def endpoint(tasks: Tasks) -> None: ...

    with (
        TestClient(app) as client,
        pytest.raises(FastAPITasksUninitializedAppError, match=r"call add_tasks\(app\)"),
    ):
        client.get("/")


def test_current_tasks_in_app_without_add_tasks() -> None:
    """I7: `current_tasks()` in an app without `add_tasks` says to call it."""
    app = FastAPI()

    @app.get("/")
    async def endpoint() -> None:
        current_tasks()

    with (
        TestClient(app) as client,
        pytest.raises(FastAPITasksUninitializedAppError, match=r"add_tasks\(app\)"),
    ):
        client.get("/")


def test_lifespan_that_never_ran(app: FastAPI) -> None:
    """I7: with a test client that is no context manager, `Tasks` says to use it as one."""

    @app.get("/")
    async def endpoint(tasks: Tasks) -> None: ...

    with pytest.raises(FastAPITasksLifespanError, match=r"with TestClient\(app\) as client:"):
        TestClient(app).get("/")


def test_lifespan_that_never_ran_for_current_tasks(app: FastAPI) -> None:
    """I7: and so does `current_tasks()`."""

    @app.get("/")
    async def endpoint() -> None:
        current_tasks()

    with pytest.raises(Exception, match=r"with TestClient\(app\) as client:"):
        TestClient(app).get("/")


def test_app_that_has_stopped(app: FastAPI) -> None:
    """I7: a request after the lifespan's end is told the same."""

    @app.get("/")
    async def endpoint(tasks: Tasks) -> None: ...

    client = TestClient(app)
    with client:
        assert client.get("/").status_code == 200
    with pytest.raises(FastAPITasksLifespanError, match="lifespan"):
        client.get("/")


def test_current_tasks_outside_of_a_request() -> None:
    """I7: `current_tasks()` with no request around it says where to call it instead."""
    with pytest.raises(FastAPITasksUninitializedAppError, match=r"use taskcore\.current_scope\(\)"):
        current_tasks()


async def test_current_tasks_in_a_unit_of_the_core() -> None:
    """I7: nor has the lifespan a request, and a unit of the core's is none either."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        async with current_scope().lifecycle("stored"):
            with pytest.raises(FastAPITasksUninitializedAppError, match="current_scope"):
                current_tasks()
        yield

    app = FastAPI(lifespan=lifespan)
    add_tasks(app)
    async with Server(app):
        pass


async def coroutine_function(argument: int) -> None:
    """Something to schedule."""


async def test_wrong_calls_fail_at_the_call(app: FastAPI) -> None:
    """I7: what cannot be scheduled is refused at each moment, with what to write instead."""

    @app.get("/")
    async def endpoint(tasks: Tasks) -> None:
        for scheduler in (tasks, tasks.after_route, tasks.after_response):
            with pytest.raises(InvalidCallError, match=r"write schedule\(coroutine_function, "):
                scheduler.schedule(coroutine_function(1))  # type: ignore[call-overload]
            with pytest.raises(InvalidCallError, match=r"that fit coroutine_function\(argument"):
                scheduler.schedule(coroutine_function)  # type: ignore[call-overload]
            with pytest.raises(ConfigValueError, match="seconds >= 0"):
                scheduler.task(timeout=-1)
        with pytest.raises(ConfigValueError, match=r"tasks\.after_response\.task\(when="):
            tasks.task(when="always")

    async with Server(app) as server:
        await server.get("/")


async def test_schedule_after_shutdown(app: FastAPI) -> None:
    """I7: tasks of a request that ended before shutdown are refused after it."""
    kept: list[RequestTasks] = []

    @app.get("/")
    async def endpoint(tasks: Tasks) -> None:
        kept.append(tasks)

    async with Server(app) as server:
        await server.get("/")
    for scheduler in (kept[0], kept[0].after_route, kept[0].after_response):
        with pytest.raises(ScopeClosedError, match="schedule it before shutdown"):
            scheduler.schedule(coroutine_function, 1)


async def test_schedule_from_another_loop(app: FastAPI) -> None:
    """I7: tasks of a request are refused on another event loop than the app's."""

    def other_loop(tasks: RequestTasks) -> None:
        async def schedule() -> None:
            for scheduler in (tasks, tasks.after_route, tasks.after_response):
                with pytest.raises(WrongLoopError, match="call it there, or from a thread"):
                    scheduler.schedule(coroutine_function, 1)

        asyncio.run(schedule())

    @app.get("/")
    async def endpoint(tasks: Tasks) -> None:
        await asyncio.to_thread(other_loop, tasks)

    async with Server(app) as server:
        await server.get("/")
