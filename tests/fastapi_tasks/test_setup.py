"""`add_tasks`: its options, several apps, mounts, and an app that is started again."""

import asyncio
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI, Request, WebSocket
from fastapi.responses import JSONResponse
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient

from fastapi_tasks import RequestTasks, Task, TaskConfig, Tasks, add_tasks, current_tasks
from fastapi_tasks.errors import (
    FastAPITasksError,
    FastAPITasksLifespanError,
    FastAPITasksSetupError,
)
from taskcore import DrainReport, TaskEvent, current_scope
from taskcore.errors import BacklogFullError, ConfigTypeError, ConfigValueError, TaskcoreError
from tests.fastapi_tasks.server import Server, note
from tests.helpers import Journal

# -- wrong use --------------------------------------------------------------------------------


def test_twice(app: FastAPI) -> None:
    """I7: a second `add_tasks` on one app is refused."""
    with pytest.raises(FastAPITasksSetupError, match="call add_tasks once, with all options"):
        add_tasks(app)


@pytest.mark.parametrize("other", [APIRouter(), Starlette(), None])
def test_on_something_else(other: Any) -> None:
    """I7: `add_tasks` on a router, or on what is no FastAPI app, says what to give it."""
    with pytest.raises(FastAPITasksSetupError, match=r"call add_tasks\(app\) with the FastAPI app"):
        add_tasks(other)


def test_on_a_started_app() -> None:
    """I7: `add_tasks` on an app that has started says when to call it."""
    app = FastAPI(title="shop")
    with TestClient(app):
        pass
    with pytest.raises(FastAPITasksSetupError, match=r"'shop'.*right after app = FastAPI"):
        add_tasks(app)


def test_wrong_options() -> None:
    """I7: a wrong option is refused by `add_tasks` itself, which may then be called rightly."""
    app = FastAPI()
    with pytest.raises(ConfigValueError, match="limit=0 is too small; pass at least 1"):
        add_tasks(app, limit=0)
    with pytest.raises(ConfigTypeError, match=r"pass TaskConfig\(\.\.\.\)"):
        add_tasks(app, config={"shield": True})  # type: ignore[arg-type]
    add_tasks(app)


def test_errors_have_one_base() -> None:
    """Every error of the adapter is under its own base class, and that under the core's."""
    assert issubclass(FastAPITasksSetupError, FastAPITasksError)
    assert issubclass(FastAPITasksLifespanError, FastAPITasksError)
    assert issubclass(FastAPITasksError, TaskcoreError)


# -- options ----------------------------------------------------------------------------------


async def test_options_reach_the_scope(journal: Journal) -> None:
    """What `add_tasks` takes is in force for the app's tasks: config, limits, observers."""
    app = FastAPI(title="shop")
    failures: list[tuple[str, BaseException]] = []
    events: list[TaskEvent] = []
    reports: list[DrainReport] = []

    async def on_error(task: Task[..., Any], error: BaseException) -> None:
        failures.append((task.name, error))

    add_tasks(
        app,
        config=TaskConfig(on_error=on_error, name="default"),
        limit=1,
        backlog=1,
        grace_period=None,
        shield_timeout=None,
        name="worker",
        threads=1,
        lanes={"mail": 1},
        observers=[events.append],
        on_drain=reports.append,
    )
    error = ValueError("wrong")

    async def fail() -> None:
        raise error

    @app.get("/")
    async def endpoint(tasks: Tasks) -> None:
        assert tasks.scope.name == "worker"
        assert tasks.config.name == "default"
        await tasks.schedule(fail).wait()
        tasks.schedule(note, journal, "runs")
        tasks.schedule(note, journal, "waits")
        with pytest.raises(BacklogFullError):
            tasks.schedule(note, journal, "too many")
        tasks.task(lane="mail").schedule(note, journal, "mail")

    async with Server(app) as server:
        await server.get("/")
    assert failures == [("default", error)]
    assert set(journal.events) == {"runs", "waits", "mail"}
    assert [event.kind for event in events].count("finished") == 4
    assert len(reports) == 1


async def test_request_with_one_task_too_many(journal: Journal) -> None:
    """L1, T6: a handler answers 503; what the request deferred is skipped, what began goes on."""
    app = FastAPI()
    add_tasks(app, limit=1, backlog=2)

    @app.exception_handler(BacklogFullError)
    async def answer_503(request: Request, error: BacklogFullError) -> JSONResponse:
        return JSONResponse({"detail": "too busy"}, 503, {"Retry-After": "5"})

    @app.get("/")
    async def endpoint(tasks: Tasks) -> None:
        tasks.schedule(note, journal, "now")
        tasks.after_response.schedule(note, journal, "success")
        tasks.after_response.task(when="failure").schedule(note, journal, "failure")
        tasks.schedule(note, journal, "too many")

    async with Server(app) as server:
        connection = await server.get("/")
    assert connection.status == 503
    assert (b"retry-after", b"5") in connection.sent[0]["headers"]
    assert journal.events == ["now", "failure"]


# -- several apps -------------------------------------------------------------------------------


async def test_two_apps_do_not_mix(journal: Journal) -> None:
    """Two apps of one process have a scope each, and stopping one leaves the other's tasks."""
    scopes: dict[str, object] = {}

    def make_app(name: str) -> FastAPI:
        app = FastAPI(title=name)
        add_tasks(app)

        @app.get("/")
        async def endpoint(tasks: Tasks) -> None:
            scopes[name] = tasks.scope
            assert current_scope() is tasks.scope
            tasks.after_response.schedule(note, journal, name)

        return app

    one, two = make_app("one"), make_app("two")
    async with Server(one) as first:
        async with Server(two) as second:
            await second.get("/")
            await first.get("/")
        await first.get("/")
    assert scopes["one"] is not scopes["two"]
    assert journal.events == ["two", "one", "one"]


async def test_app_that_calls_another(journal: Journal) -> None:
    """A request made inside another app's request has its own tasks; the outer one's stay."""
    inner, outer = FastAPI(title="inner"), FastAPI(title="outer")
    add_tasks(inner)
    add_tasks(outer)

    @inner.get("/")
    async def inner_endpoint() -> None:
        assert current_tasks().scope.name == "inner"
        current_tasks().after_response.schedule(note, journal, "inner")

    async with Server(inner, journal) as inner_server, Server(outer, journal) as server:

        @outer.get("/")
        async def outer_endpoint() -> None:
            current_tasks().after_response.schedule(note, journal, "outer")
            await inner_server.get("/")
            assert current_tasks().scope.name == "outer"

        await server.get("/")
    assert {"inner", "outer"} <= set(journal.events)
    journal.assert_order("inner", "outer")


def test_started_stopped_started(app: FastAPI, journal: Journal) -> None:
    """S4: an app can be started, stopped and started again, each time with tasks."""

    @app.get("/{number}")
    async def endpoint(number: int, tasks: Tasks) -> None:
        tasks.after_response.schedule(note, journal, number)

    for number in range(3):
        with TestClient(app) as client:
            assert client.get(f"/{number}").status_code == 200
        assert journal.events == list(range(number + 1))


async def test_started_twice_at_the_same_time(app: FastAPI) -> None:
    """I7: a second lifespan on the same loop is refused, and the first goes on."""
    async with Server(app):
        with pytest.raises(RuntimeError, match="serve a second instance of the application"):
            await Server(app).__aenter__()


# -- mounted apps -------------------------------------------------------------------------------


def make_mounted(journal: Journal) -> FastAPI:
    mounted = FastAPI(title="mounted")

    @mounted.get("/")
    async def endpoint(tasks: Tasks) -> dict[str, object]:
        tasks.after_route.schedule(note, journal, "after_route")
        tasks.after_response.schedule(note, journal, "after_response")
        return {"scope": tasks.scope.name, "shield": tasks.config.shield, "lane": tasks.config.lane}

    @mounted.websocket("/ws")
    async def websocket(websocket: WebSocket) -> None:
        await websocket.accept()
        current_tasks().after_response.schedule(note, journal, "after_response")
        await websocket.close()

    return mounted


EVENTS = ["after_route", "start 200", "last", "done", "after_response"]


async def test_mounted_app_without_add_tasks(journal: Journal) -> None:
    """T7: a mounted app uses the tasks and the moments of the app around it."""
    app = FastAPI(title="outer")
    add_tasks(app, config=TaskConfig(shield=True))
    app.mount("/sub", make_mounted(journal))
    async with Server(app, journal) as server:
        response = await server.get("/sub/")
    assert response.json() == {"scope": "outer", "shield": True, "lane": None}
    assert journal.events == EVENTS


async def test_mounted_app_with_add_tasks(journal: Journal) -> None:
    """T7: a mounted app with `add_tasks` uses the outer scope, its own config on top."""
    app, mounted = FastAPI(title="outer"), make_mounted(journal)
    add_tasks(app, config=TaskConfig(shield=True), lanes={"mail": 1})
    add_tasks(mounted, config=TaskConfig(lane="mail"))
    app.mount("/sub", mounted)

    @app.get("/")
    async def endpoint(tasks: Tasks) -> object:
        return tasks.config.lane

    async with Server(app, journal) as server:
        response = await server.get("/sub/")
        assert response.json() == {"scope": "outer", "shield": True, "lane": "mail"}
        assert journal.events == EVENTS
        assert (await server.get("/")).json() is None


async def test_mounted_app_with_add_tasks_and_no_config(journal: Journal) -> None:
    """T7: without a config of its own it uses the outer one's."""
    app, mounted = FastAPI(title="outer"), make_mounted(journal)
    add_tasks(app, config=TaskConfig(shield=True))
    add_tasks(mounted)
    app.mount("/sub", mounted)
    async with Server(app, journal) as server:
        response = await server.get("/sub/")
    assert response.json() == {"scope": "outer", "shield": True, "lane": None}
    assert journal.events == EVENTS


async def test_app_mounted_two_levels_deep(journal: Journal) -> None:
    """T7: through a mount in a mount, a Starlette one among them, it is the same."""
    app, mounted = FastAPI(title="outer"), make_mounted(journal)
    add_tasks(app)
    add_tasks(mounted, config=TaskConfig(shield=True))
    app.mount("/a", Starlette(routes=[Mount("/b", app=mounted)]))
    async with Server(app, journal) as server:
        response = await server.get("/a/b/")
    assert response.json() == {"scope": "outer", "shield": True, "lane": None}
    assert journal.events == EVENTS


async def test_websocket_of_a_mounted_app(app: FastAPI, journal: Journal) -> None:
    """T7: so has a websocket of a mounted app."""
    app.mount("/sub", make_mounted(journal))
    async with Server(app, journal) as server:
        connection = server.open("/sub/ws", kind="websocket")
        await connection.call
    assert journal.events[-2:] == ["done", "after_response"]


async def test_mounted_app_alone_has_add_tasks(journal: Journal) -> None:
    """I7: where only the mounted app has `add_tasks`, whose lifespan never runs, it says so."""
    app, mounted = FastAPI(), make_mounted(journal)
    add_tasks(mounted)
    app.mount("/sub", mounted)
    async with Server(app) as server:
        with pytest.raises(FastAPITasksLifespanError, match="add_tasks on the outermost app"):
            await server.get("/sub/")


async def test_mounted_app_with_a_lifespan_of_its_own(journal: Journal) -> None:
    """T7: a mounted app whose lifespan the outer app runs has its own scope and moments."""
    mounted = make_mounted(journal)
    add_tasks(mounted)

    async with Server(mounted), asyncio.TaskGroup():
        app = FastAPI(title="outer")
        add_tasks(app)
        app.mount("/sub", mounted)
        async with Server(app, journal) as server:
            response = await server.get("/sub/")
    assert response.json()["scope"] == "mounted"
    journal.assert_order("after_route", "start 200", "last", "after_response")


# -- FastAPI's own set-up -----------------------------------------------------------------------


async def test_middleware_and_routes_added_later(app: FastAPI, journal: Journal) -> None:
    """The order of `add_tasks`, routes, middleware and exception handlers is free."""

    class Outer:
        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await self.app(scope, receive, send)
            if scope["type"] == "http":
                journal.add("middleware")

    app.add_middleware(Outer)

    @app.exception_handler(KeyError)
    async def answer(request: object, error: Exception) -> None:
        raise AssertionError("nothing fails")

    @app.get("/")
    async def endpoint(tasks: Tasks) -> None:
        tasks.after_response.schedule(note, journal, "after_response")

    async with Server(app, journal) as server:
        await server.get("/")
    assert journal.events[-3:] == ["middleware", "done", "after_response"]


async def test_route_without_tasks(app: FastAPI, journal: Journal) -> None:
    """T7: a route that uses no tasks, and one that does not exist, answer as ever."""

    @app.get("/")
    async def endpoint() -> str:
        return "answer"

    async with Server(app, journal) as server:
        assert (await server.get("/")).json() == "answer"
        assert (await server.get("/nowhere")).status == 404
    assert journal.events == ["start 200", "last", "done", "start 404", "last", "done"]


def test_request_tasks_is_exported() -> None:
    """`RequestTasks` is the type to annotate helpers with that take an endpoint's `tasks`."""
    assert RequestTasks.__name__ == "RequestTasks"
