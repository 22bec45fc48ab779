"""Help for tests of an app, with `TestClient` in another thread and `ASGITransport` on the loop."""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import weakref
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from starlette.testclient import TestClient

from fastapi_tasks import TaskConfig, Tasks, add_tasks
from fastapi_tasks.errors import FastAPITasksLifespanError, FastAPITasksUninitializedAppError
from fastapi_tasks.testing import (
    Scheduled,
    record,
    run_deferred,
    running,
    scope_of,
    wait_idle,
    wait_idle_sync,
)
from taskcore import TaskState, current_scope
from taskcore.errors import NotIdleError, WrongLoopError
from tests.helpers import Journal

UVLOOP = pytest.mark.skipif(importlib.util.find_spec("uvloop") is None, reason="needs uvloop")


class Problem(Exception):
    """What goes wrong in these tests."""


@pytest.fixture(params=[False, pytest.param(True, marks=UVLOOP)], ids=["asyncio", "uvloop"])
def uvloop(request: pytest.FixtureRequest) -> bool:
    """Whether a `TestClient` runs its app on uvloop."""
    return bool(request.param)


async def send_mail(journal: Journal, address: str) -> None:
    """A task that takes some turns of the loop."""
    await asyncio.sleep(0)
    journal.add(address)


def remind(journal: Journal, address: str) -> None:
    """A task for a thread."""
    journal.add(f"reminded {address}")


@pytest.fixture
def app(app: FastAPI, journal: Journal) -> FastAPI:
    """An app whose requests schedule a task at once, one after the response, and one for later."""

    @app.post("/users/{name}")
    async def register(name: str, tasks: Tasks) -> None:
        tasks.task(name="index").schedule(send_mail, journal, f"{name} now")
        tasks.after_response.schedule(send_mail, journal, address=name)
        tasks.task(delay=3600).schedule(remind, journal, name)

    @app.post("/plain/{name}")
    def register_plainly(name: str, tasks: Tasks) -> None:
        tasks.after_route.schedule(send_mail, journal, name)

    return app


def with_client(app: FastAPI, uvloop: bool = False) -> TestClient:
    """A synchronous client."""
    return TestClient(app, backend_options={"use_uvloop": uvloop})


@asynccontextmanager
async def async_client(app: Any) -> AsyncGenerator[Any]:
    """An asynchronous client that calls the app on this loop."""
    httpx2 = pytest.importorskip("httpx2")
    transport = httpx2.ASGITransport(app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


# -- TestClient ------------------------------------------------------------------------------


def test_wait_idle_sync(app: FastAPI, journal: Journal, uvloop: bool) -> None:
    """A synchronous test waits for the tasks of its requests, the delayed one started at once."""
    with with_client(app, uvloop) as client:
        client.post("/users/ada")
        (task,) = run_deferred(app)
        wait_idle_sync(app)
        assert set(journal.events) == {"ada now", "ada", "reminded ada"}
        assert task.state is TaskState.SUCCEEDED


def test_wait_idle_sync_names_what_still_runs(app: FastAPI, uvloop: bool) -> None:
    """When the time is over, the error names what still runs."""

    @app.get("/hang")
    async def hang(tasks: Tasks) -> None:
        tasks.task(name="hanging").schedule(asyncio.Event().wait)

    with with_client(app, uvloop) as client:
        client.get("/hang")
        with pytest.raises(NotIdleError, match=r"scope 'FastAPI' .* 'hanging' \(id \d+, "):
            wait_idle_sync(app, timeout=0)
        for task in list(scope_of(app)._tasks):
            task.cancel()


@pytest.mark.parametrize("path", ["/users", "/plain"])
def test_record_in_a_synchronous_test(app: FastAPI, journal: Journal, path: str) -> None:
    """What a request schedules is written down, from the loop and from threads; nothing runs."""
    with with_client(app) as client:
        with record(app) as scheduled:
            assert client.post(f"{path}/ada").status_code == 200
            wait_idle_sync(app)
        expected = {
            "/users": [
                Scheduled(send_mail, (journal, "ada now"), config=TaskConfig(name="index")),
                Scheduled(send_mail, (journal,), {"address": "ada"}, phase="after_response"),
                Scheduled(remind, (journal, "ada"), config=TaskConfig(delay=3600)),
            ],
            "/plain": [Scheduled(send_mail, (journal, "ada"), phase="after_route")],
        }
        assert scheduled == expected[path]
        assert journal.events == []
        client.post("/plain/bob")
        wait_idle_sync(app)
        assert journal.events == ["bob"]


def test_async_wait_in_a_synchronous_test(app: FastAPI) -> None:
    """Waiting for an app that another thread runs is refused on a loop that is not its own."""
    with with_client(app), pytest.raises(WrongLoopError, match="belongs to another event loop"):
        asyncio.run(wait_idle(app))


# -- ASGITransport ---------------------------------------------------------------------------


async def test_wait_idle(app: FastAPI, journal: Journal) -> None:
    """An async test waits for the tasks of its requests, the delayed one started at once."""
    async with running(app), async_client(app) as client:
        await client.post("/users/ada")
        (task,) = run_deferred(app)
        await wait_idle(app)
        assert set(journal.events) == {"ada now", "ada", "reminded ada"}
        assert task.state is TaskState.SUCCEEDED


@pytest.mark.virtual
async def test_wait_idle_on_the_virtual_clock(app: FastAPI, journal: Journal) -> None:
    """On the virtual clock a delay is over at once, and a timeout as well."""
    async with running(app), async_client(app) as client:
        await client.post("/users/ada")
        with pytest.raises(NotIdleError, match=r"'remind' \(id \d+, deferred\)"):
            await wait_idle(app, timeout=60)
        await wait_idle(app, timeout=None)
        assert asyncio.get_running_loop().time() == 3600.0
        assert journal.events[-1] == "reminded ada"


@pytest.mark.virtual
async def test_plain_endpoint_on_the_virtual_clock(app: FastAPI, journal: Journal) -> None:
    """Time stands still while a `def` endpoint works in one of FastAPI's threads."""
    async with running(app), async_client(app) as client:
        for number in range(20):
            async with asyncio.timeout(1):
                assert (await client.post(f"/plain/{number}")).status_code == 200
        await wait_idle(app)
        await asyncio.sleep(1)
        assert asyncio.get_running_loop().time() == 1.0
        assert len(journal.events) == 20


async def test_record_in_an_async_test(app: FastAPI, journal: Journal) -> None:
    """What a request schedules is written down, and nothing of it runs."""
    async with running(app), async_client(app) as client:
        with record(app) as scheduled:
            await client.post("/users/ada")
            await wait_idle(app)
        assert [(call.name, call.phase) for call in scheduled] == [
            ("index", None),
            ("send_mail", "after_response"),
            ("remind", None),
        ]
        assert journal.events == []


async def test_run_deferred_of_a_request_that_goes_on(app: FastAPI, journal: Journal) -> None:
    """What waits for the end of a request starts while its response is being sent."""
    first, last = asyncio.Event(), asyncio.Event()

    @app.get("/stream")
    async def stream(tasks: Tasks) -> StreamingResponse:
        tasks.after_response.schedule(send_mail, journal, "streamed")

        async def chunks() -> AsyncGenerator[str]:
            yield "a"
            first.set()
            await last.wait()

        return StreamingResponse(chunks())

    async with running(app), async_client(app) as client:
        request = asyncio.create_task(client.get("/stream"))
        await first.wait()
        await wait_idle(app)
        assert journal.events == []
        await asyncio.gather(*run_deferred(app))
        assert journal.events == ["streamed"]
        last.set()
        await request
    assert journal.events == ["streamed"]


async def test_running(journal: Journal) -> None:
    """The app's own lifespan runs, its state reaches requests, and tasks end before teardown."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[dict[str, Any]]:
        await current_scope().schedule(send_mail, journal, "start-up")
        yield {"pool": "open"}
        journal.add("teardown")

    app = FastAPI(lifespan=lifespan)
    add_tasks(app)

    @app.get("/")
    async def endpoint(request: Request, tasks: Tasks) -> str:
        tasks.after_response.schedule(send_mail, journal, "task")
        return str(request.state.pool)

    async with running(app) as served, async_client(served) as client:
        assert (await client.get("/")).json() == "open"
    assert journal.events == ["start-up", "task", "teardown"]


async def test_start_up_fails() -> None:
    """What the lifespan raises comes out of `running`."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        raise Problem("no database")
        yield

    app = FastAPI(lifespan=lifespan)
    add_tasks(app)
    with pytest.raises(Problem, match="no database"):
        async with running(app):
            pass


# -- which scope -----------------------------------------------------------------------------


async def test_scope_of(app: FastAPI) -> None:
    """It is the scope that requests schedule on, also behind what others put around the app."""
    seen: list[object] = []
    build = app.build_middleware_stack

    class Instrument:
        """A middleware that hides the one inside of it, as instrumentation does."""

        def __init__(self) -> None:
            self._inner = build()

        async def __call__(self, *args: Any) -> None:
            await self._inner(*args)

    app.build_middleware_stack = Instrument  # type: ignore[method-assign]

    @app.get("/")
    async def endpoint(tasks: Tasks) -> None:
        seen.append(tasks.scope)

    async with running(app), async_client(app) as client:
        await client.get("/")
        assert seen == [scope_of(app)]


@contextmanager
def mounted(app: FastAPI) -> Generator[FastAPI]:
    """An app with tasks of its own, mounted in another one that runs."""
    inner = FastAPI(title="inner")
    add_tasks(inner)
    app.mount("/inner", inner)
    with with_client(app) as client:
        client.get("/inner/docs")
        yield inner


def test_app_that_does_not_run(app: FastAPI) -> None:
    """An app without a lifespan that runs is refused, and told what to write."""
    advice = r"app '\w+' has no scope now.*with TestClient\(app\).*async with running\(app\)"
    for call in scope_of, wait_idle_sync, run_deferred, record:
        with pytest.raises(FastAPITasksLifespanError, match=advice):
            call(app)
    with pytest.raises(FastAPITasksLifespanError, match=advice):
        asyncio.run(wait_idle(app))
    with with_client(app):
        pass
    with pytest.raises(FastAPITasksLifespanError, match=advice):
        scope_of(app)
    with mounted(app) as inner, pytest.raises(FastAPITasksLifespanError, match="outermost one"):
        scope_of(inner)


async def test_app_without_tasks(app: FastAPI) -> None:
    """An app that was not given to `add_tasks`, or something else, is refused."""
    something: list[Any] = [FastAPI(), with_client(app), object()]
    for wrong in something:
        with pytest.raises(FastAPITasksUninitializedAppError, match=r"call add_tasks\(app\)"):
            scope_of(wrong)
        with pytest.raises(FastAPITasksUninitializedAppError, match=r"call add_tasks\(app\)"):
            async with running(wrong):
                pass


def test_app_is_let_go(journal: Journal) -> None:
    """What knows of the apps keeps none of them alive."""
    app = FastAPI()
    add_tasks(app)
    with with_client(app):
        scope_of(app)
    gone = weakref.ref(app)
    del app
    gc.collect()
    assert gone() is None
