"""The app's lifespan and its tasks: start-up, shutdown before any teardown, failures."""

import asyncio
import threading
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from fastapi import APIRouter, FastAPI
from starlette.testclient import TestClient

from fastapi_tasks import TaskConfig, Tasks, add_tasks
from taskcore import DrainReport, Task, current_scope
from taskcore.errors import TaskCancelledError
from tests.fastapi_tasks.server import Server, note
from tests.helpers import Journal


class Problem(Exception):
    """What goes wrong in these tests."""


async def test_scope_is_open_during_start_up_and_teardown(journal: Journal) -> None:
    """S4: tasks scheduled in start-up and in teardown run, the latter to their end."""
    teardown_may_end = asyncio.Event()

    async def in_teardown() -> None:
        journal.add("task of teardown begins")
        await teardown_may_end.wait()
        journal.add("task of teardown ends")

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        await current_scope().schedule(note, journal, "task of start-up")
        journal.add("start-up")
        yield
        task = current_scope().schedule(in_teardown)
        await task.started.wait()
        journal.add("teardown")
        teardown_may_end.set()

    app = FastAPI(lifespan=lifespan)
    add_tasks(app)
    async with Server(app):
        journal.add("serving")
    assert journal.events == [
        *("task of start-up", "start-up", "serving"),
        *("task of teardown begins", "teardown", "task of teardown ends"),
    ]


async def test_series_of_the_lifespan(journal: Journal) -> None:
    """S4: a series that start-up begins goes on while the app serves, and ends before teardown."""
    began = asyncio.Event()

    async def refresh(what: str) -> None:
        journal.add(f"refresh of {what}")
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            journal.add("refresh ends")

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        series = current_scope().every(3600, refresh, "prices")
        yield
        journal.add(f"teardown, series over: {series.is_over}")

    app = FastAPI(lifespan=lifespan)
    add_tasks(app, grace_period=0)
    async with Server(app):
        await began.wait()
        journal.add("serving")
    assert journal.events == [
        *("refresh of prices", "serving"),
        *("refresh ends", "teardown, series over: True"),
    ]


async def test_drain_comes_before_every_teardown(journal: Journal) -> None:
    """S4: tasks end before any teardown of the app, its routers or its mounted apps."""
    release = asyncio.Event()

    def make_lifespan(name: str) -> object:
        @asynccontextmanager
        async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
            yield
            journal.add(f"teardown of {name}")

        return lifespan

    router = APIRouter(lifespan=make_lifespan("router"))  # type: ignore[arg-type]
    late_router = APIRouter(lifespan=make_lifespan("late router"))  # type: ignore[arg-type]
    mounted = FastAPI(lifespan=make_lifespan("mounted"))  # type: ignore[arg-type]
    add_tasks(mounted)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(mounted.router.lifespan_context(mounted))
            yield
            journal.add("teardown of app")

    app = FastAPI(lifespan=lifespan)
    app.include_router(router)
    add_tasks(app)
    app.include_router(late_router)
    app.mount("/sub", mounted)

    async def work() -> None:
        await release.wait()
        journal.add("task ends")

    @app.get("/")
    async def endpoint(tasks: Tasks) -> None:
        tasks.after_response.task(shield=True).schedule(work)

    async with Server(app) as server:
        await server.get("/")
        asyncio.get_running_loop().call_soon(release.set)
    assert journal.events[0] == "task ends"
    assert set(journal.events[1:]) == {
        *("teardown of app", "teardown of router", "teardown of late router"),
        *("teardown of mounted",),
    }


@pytest.mark.virtual
async def test_grace_period_and_shield_at_shutdown(journal: Journal) -> None:
    """S4: at shutdown unshielded tasks are cancelled, shielded ones finish, then comes teardown."""
    reports: list[DrainReport] = []
    tasks_of: list[Task[..., object]] = []

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        yield
        journal.add(("teardown", asyncio.get_running_loop().time()))

    app = FastAPI(lifespan=lifespan)
    add_tasks(app, grace_period=1, shield_timeout=10, on_drain=reports.append)

    async def work(name: str, seconds: float) -> None:
        await asyncio.sleep(seconds)
        journal.add((name, asyncio.get_running_loop().time()))

    @app.get("/")
    async def endpoint(tasks: Tasks) -> None:
        tasks.schedule(work, "short", 0.5)
        tasks_of.append(tasks.schedule(work, "long", 5))
        tasks.after_response.task(shield=True).schedule(work, "shielded", 5)

    async with Server(app) as server:
        await server.get("/")
    assert journal.events == [("short", 0.5), ("shielded", 5.0), ("teardown", 5.0)]
    with pytest.raises(TaskCancelledError):
        tasks_of[0].result()
    (report,) = reports
    assert (len(report.succeeded), len(report.cancelled)) == (2, 1)


@pytest.mark.virtual
async def test_deferred_tasks_of_requests_in_flight(journal: Journal) -> None:
    """S4: what a request in flight has deferred is settled at shutdown, and nothing is lost."""
    app = FastAPI()
    add_tasks(app, grace_period=1, shield_timeout=10)
    begun = asyncio.Event()
    release = asyncio.Event()
    tasks_of: list[Task[..., object]] = []

    @app.get("/")
    async def endpoint(tasks: Tasks) -> None:
        tasks_of.append(tasks.after_response.schedule(note, journal, "never"))
        tasks.after_response.task(shield=True).schedule(note, journal, "shielded")
        begun.set()
        await release.wait()

    async with Server(app) as server:
        connection = server.open("/")
        await begun.wait()
    assert journal.events == ["shielded"]
    assert tasks_of[0].cancelled()
    release.set()
    await connection.call


async def test_start_up_fails(journal: Journal) -> None:
    """S4: tasks that a failed start-up has scheduled are drained, and its error is the server's."""
    release = asyncio.Event()

    async def work() -> None:
        await release.wait()
        journal.add("task ends")

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        current_scope().schedule(work)
        asyncio.get_running_loop().call_soon(release.set)
        raise Problem
        yield

    app = FastAPI(lifespan=lifespan)
    add_tasks(app)
    server = Server(app)
    with pytest.raises(Problem):
        await server.__aenter__()
    assert journal.events == ["task ends"]
    assert [message["type"] for message in server.lifespan.sent] == ["lifespan.startup.failed"]


async def test_teardown_fails(journal: Journal) -> None:
    """S4: tasks of a teardown that fails are drained as well."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        yield
        current_scope().schedule(note, journal, "task of teardown")
        raise Problem

    app = FastAPI(lifespan=lifespan)
    add_tasks(app)
    server = Server(app)
    with pytest.raises(Problem):
        async with server:
            journal.add("serving")
    assert journal.events == ["serving", "task of teardown"]
    assert server.lifespan.sent[-1]["type"] == "lifespan.shutdown.failed"


async def test_lifespan_state(journal: Journal) -> None:
    """State that a lifespan yields reaches the server as without tasks."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[dict[str, str]]:
        yield {"pool": "open"}

    app = FastAPI(lifespan=lifespan)
    add_tasks(app)

    @app.get("/")
    async def endpoint(tasks: Tasks) -> None:
        tasks.after_response.schedule(note, journal, "after_response")

    with TestClient(app) as client:
        assert client.app_state == {"pool": "open"}
        client.get("/")
    assert journal.events == ["after_response"]


async def test_shielded_task_finds_its_pool_open(journal: Journal) -> None:
    """S4: a shielded task uses what the lifespan opened, until it has finished."""
    pool = {"open": False}
    release = threading.Event()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        pool["open"] = True
        yield
        pool["open"] = False

    app = FastAPI(lifespan=lifespan)
    add_tasks(app, config=TaskConfig(shield=True), grace_period=0)

    def charge() -> None:
        release.wait()
        journal.add(pool["open"])

    @app.get("/")
    def endpoint(tasks: Tasks) -> None:
        tasks.after_response.schedule(charge)

    async with Server(app) as server:
        await server.get("/")
        asyncio.get_running_loop().call_soon(release.set)
    assert journal.events == [True]
    assert pool == {"open": False}
