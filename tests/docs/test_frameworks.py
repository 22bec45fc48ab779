"""The orders of docs/examples/frameworks: real servers, clients and signals."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager
from io import StringIO
from pathlib import Path
from typing import Any, cast

import aiohttp
import pytest
from aiohttp import web
from quart import Quart
from werkzeug.exceptions import HTTPException

from frameworks.aiohttp_app import SCOPE, UNIT, add_tasks
from frameworks.orders import Orders
from frameworks.quart_app import note_failure
from frameworks.tcp_server import serve
from taskcore import TaskScope
from taskcore.asgi import TasksMiddleware, current_tasks
from tests.fastapi_tasks import server as asgi_server
from tests.helpers import Journal
from tests.servers.harness import HUNG, ROOT, Kind, Server, Traffic
from tests.servers.test_sigterm import complaint

# Each ASGI framework on another server.
ASGI = {
    "starlette": Kind(
        "uvicorn {app} --host 127.0.0.1 --port {{port}} --no-access-log", -signal.SIGTERM
    ),
    "litestar": Kind("granian {app} --interface asgi --host 127.0.0.1 --port {{port}}"),
    "quart": Kind("hypercorn {app} --bind 127.0.0.1:{{port}}"),
}
AIOHTTP = Kind("aiohttp.web -H 127.0.0.1 -P {port} frameworks.aiohttp_app:make_app")
TCP = Kind("frameworks.tcp_server {port}")


def serving(kind: Kind, folder: Path, **environment: str) -> Server:
    """A server process that can import the examples."""
    path = os.pathsep.join([str(ROOT / "docs/examples"), os.environ.get("PYTHONPATH", "")])
    return Server(kind, folder, environment={"PYTHONPATH": path, **environment})


def asgi(name: str, app: str) -> Kind:
    """The server of an ASGI framework, with this application."""
    return Kind(ASGI[name].command.format(app=app), ASGI[name].exit_code)


def steps(server: Server, order: str) -> list[str]:
    """What happened to an order."""
    return [event.name for event in server.journal if event.key == order]


# -- ASGI -------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=ASGI)
def recorded(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Generator[Server]:
    """Each example, with the first and last bytes of its responses in its journal."""
    kind = asgi(request.param, "tests.docs.recorded:app")
    folder = tmp_path_factory.mktemp("recorded")
    example = f"frameworks.{request.param}_app"
    with serving(kind, folder, EXAMPLE=example, PYTHONWARNINGS="default") as server:
        server.wait_ready()
        yield server
        assert server.end() == kind.exit_code
        assert not complaint(server.output)


def test_moments_of_an_order(recorded: Server) -> None:
    """T3, T4: the charge begins before the first byte, the mail after the last."""
    assert recorded.post("/orders/7") == 201
    recorded.wait_for("charged", "7")
    assert steps(recorded, "7") == [
        "tracked",
        "charging",
        "first-byte",
        "last-byte",
        "mailed",
        "charged",
    ]


def test_a_refused_order(recorded: Server) -> None:
    """T6: an exception that the framework answers is a failure: no charge, but an alert."""
    assert recorded.post("/orders/bad") == 409
    recorded.wait_for("alerted", "bad")
    assert recorded.post("/orders/8") == 201
    recorded.wait_for("charged", "8")
    happened = steps(recorded, "bad")
    happened.remove("tracked")  # which starts with the loop's next turn, whoever sends meanwhile
    assert happened == ["first-byte", "last-byte", "alerted"]


def test_an_unknown_path(recorded: Server) -> None:
    """A failure that no task waits for is answered as ever."""
    assert recorded.post("/nowhere") == 404


async def test_failures_in_quart() -> None:
    """T6: what Quart answers with a 500 is a failure, a result that is no response included."""
    journal = Journal()
    app = Quart(__name__)
    app.register_error_handler(HTTPException, note_failure)

    @app.get("/<result>")
    async def answer(result: str) -> Any:
        current_tasks().after_response.schedule(journal.add, "success")
        current_tasks().after_response.task(when="failure").schedule(journal.add, "failure")
        return {"none": None, "yes": "yes"}[result]

    async with asgi_server.Server(TasksMiddleware(app)) as server:
        for path, status in {"/none": 500, "/unknown": 500, "/yes": 200}.items():
            connection = server.open(path)
            await connection.wait_sent("http.response.start")
            connection.give("http.disconnect")  # as servers do when the response has gone out
            await connection.call
            assert connection.status == status
    assert journal.events == ["failure", "failure", "success"]


# -- aiohttp ----------------------------------------------------------------------------------


@asynccontextmanager
async def client(
    journal: Journal, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> AsyncGenerator[aiohttp.ClientSession]:
    """A client of an application whose tasks note each moment, for either outcome."""

    async def note(event: str) -> None:
        journal.add(event)

    async def handle(request: web.Request) -> web.StreamResponse:
        unit = request[UNIT]
        unit.schedule(note, "now")
        for phase in unit.phases:
            unit.phase(phase).schedule(note, f"{phase}, success")
            unit.phase(phase).task(when="failure").schedule(note, f"{phase}, failure")
        return await handler(request)

    app = web.Application()
    app.router.add_get("/", handle)
    add_tasks(app)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        port = runner.addresses[0][1]
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
            yield session
    finally:
        await runner.cleanup()


async def test_moments_of_a_response() -> None:
    """T3, T4: in aiohttp too, tasks begin before the response is sent, and after."""
    journal = Journal()

    class Response(web.Response):
        async def write_eof(self, data: bytes = b"") -> None:
            await super().write_eof(data)
            if "sent" not in journal.events:  # aiohttp calls it once more, when nothing is left
                journal.add("sent")

    async def answer(request: web.Request) -> web.StreamResponse:
        return Response(text="yes")

    async with client(journal, answer) as session, session.get("/") as response:
        assert await response.text() == "yes"
    assert journal.events == ["now", "after_route, success", "sent", "after_response, success"]


async def test_moments_of_a_stream() -> None:
    """T4: `after_response` of a response that the handler streams comes with its end."""
    journal = Journal()
    gate = asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"first ")
        await gate.wait()
        await response.write(b"last")
        return response

    async with client(journal, answer) as session, session.get("/") as response:
        assert await response.content.readany() == b"first "
        assert journal.events == ["now", "after_route, success"]
        gate.set()
        assert await response.content.read() == b"last"
    assert journal.events[2:] == ["after_response, success"]


@pytest.mark.parametrize(
    ("error", "status"), [(web.HTTPConflict, 409), (ValueError, 500)], ids=["refused", "broken"]
)
async def test_failure_of_a_handler(error: type[Exception], status: int) -> None:
    """T6: what a handler raises is a failure, be it a response or not."""
    journal = Journal()

    async def answer(request: web.Request) -> web.StreamResponse:
        raise error

    async with client(journal, answer) as session, session.get("/") as response:
        assert response.status == status
    assert journal.events == ["now", "after_route, failure", "after_response, failure"]


async def test_cleanup_of_an_aiohttp_application() -> None:
    """S4: tasks end before any other cleanup context, those of a sub-application included."""
    journal = Journal()

    def context(name: str) -> Callable[[web.Application], AsyncGenerator[None]]:
        async def resource(app: web.Application) -> AsyncGenerator[None]:
            yield
            journal.add(f"{name} closes")

        return resource

    async def work() -> None:
        await asyncio.sleep(0.01)
        journal.add("task ends")

    app, mounted = web.Application(), web.Application()
    app.cleanup_ctx.append(context("application"))
    mounted.cleanup_ctx.append(context("sub-application"))
    app.add_subapp("/mounted", mounted)
    add_tasks(app)
    runner = web.AppRunner(app)
    await runner.setup()
    app[SCOPE].schedule(work)
    await runner.cleanup()
    assert journal.events == ["task ends", "application closes", "sub-application closes"]


async def test_client_that_is_gone() -> None:
    """T6: a response that nobody takes any more is no failure."""
    journal = Journal()
    asked = asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        asked.set()
        while request.transport is not None:  # noqa: ASYNC110 - aiohttp tells nobody
            await asyncio.sleep(0.001)
        return web.Response(text="yes")

    async with client(journal, answer) as session:
        getting = asyncio.create_task(session.get("/").__aenter__())
        await asked.wait()
        getting.cancel()
        await asyncio.wait([getting])
    assert journal.events == ["now", "after_route, success", "after_response, success"]


# -- TCP --------------------------------------------------------------------------------------


class Writer:
    """A client's connection, whose answers go into the journal of the orders."""

    def __init__(self, journal: StringIO) -> None:
        self._journal = journal

    def write(self, data: bytes) -> None:
        self._journal.write(f"0 {data.decode()}")

    async def drain(self) -> None:
        pass

    def close(self) -> None:
        self._journal.write("0 closed\n")


async def test_phases_of_a_line() -> None:
    """T2, T6: the charge of an order begins before its answer, the mail comes after it."""
    journal = StringIO()
    reader = asyncio.StreamReader()
    reader.feed_data(b"7\nbad\n")
    reader.feed_eof()
    async with TaskScope() as scope:
        writer = cast("asyncio.StreamWriter", Writer(journal))
        await serve(reader, writer, scope, Orders(journal))
    lines = [line.split(maxsplit=1)[1] for line in journal.getvalue().splitlines()]
    accepted = ["tracked 7", "charging 7", "accepted", "mailed 7", "charged 7"]
    refused = ["refused", "alerted bad"]
    assert [line for line in lines if line in accepted] == accepted
    assert [line for line in lines if line in refused] == refused
    assert sorted(lines) == sorted([*accepted, *refused, "tracked bad", "closed"])


# -- SIGTERM ----------------------------------------------------------------------------------


class Lines(Traffic):
    """Traffic over TCP, an order in a line; every second client keeps its connection."""

    def _run(self, name: str, keep_alive: bool) -> None:
        for number in range(100_000):
            try:
                address = ("127.0.0.1", self._server.port)
                with socket.create_connection(address, HUNG) as connection:
                    self._send(connection, f"{name}-{number}", 1000 if keep_alive else 1)
            except ConnectionRefusedError:
                break
            except OSError:
                continue  # it was cut off; the next one tries again

    def _send(self, connection: socket.socket, name: str, times: int) -> None:
        with connection.makefile("rw") as stream:
            for number in range(times):
                order = f"{name}-{number}"
                stream.write(f"{order}\n")
                stream.flush()
                if stream.readline() != "accepted\n":
                    break
                self.answered.append(order)


@pytest.mark.parametrize("name", [*ASGI, "aiohttp", "tcp"])
def test_sigterm_in_the_middle_of_traffic(name: str, tmp_path: Path) -> None:
    """S4, S5: every charge that was begun is made, and before the orders are closed."""
    kind = {"aiohttp": AIOHTTP, "tcp": TCP}.get(name) or asgi(name, f"frameworks.{name}_app:app")
    with serving(kind, tmp_path) as server:
        server.wait_ready()
        traffic = (Lines if name == "tcp" else Traffic)(server, 0, paths=["/orders"])
        traffic.wait_for_answers(40)
        assert server.end() == kind.exit_code
        traffic.join()
        assert not complaint(server.output)
        charging, charged = set(server.keys("charging")), set(server.keys("charged"))
        assert charging == charged
        assert set(traffic.answered) <= charged
        assert [event.name for event in server.journal].index("teardown") == len(server.journal) - 1


def test_connection_that_says_nothing(tmp_path: Path) -> None:
    """An idle connection does not hold the TCP server up."""
    with serving(TCP, tmp_path) as server:
        server.wait_ready()
        with socket.create_connection(("127.0.0.1", server.port), HUNG) as connection:
            connection.sendall(b"7\n")
            assert connection.recv(100) == b"accepted\n"
            assert server.end() == 0
            assert connection.recv(100) == b""
        assert server.keys("charged") == ["7"]
