"""The pictures in concepts.md, driven: what they show happens, in that order."""

import asyncio
import re
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from fastapi import BackgroundTasks, Depends, FastAPI, HTTPException, Response, WebSocket
from fastapi.responses import StreamingResponse

from fastapi_tasks import RequestTasks, Tasks, add_tasks
from taskcore import TaskEvent
from tests.fastapi_tasks.server import Server
from tests.helpers import Journal

PAGE = (Path(__file__).parents[2] / "docs" / "concepts.md").read_text(encoding="utf-8")
MOMENTS = {
    name: [line.rpartition(": ")[2] for line in lines.splitlines() if ": " in line]
    for name, lines in re.findall(r"id=\"moment-(\w+)\".*?```mermaid\n(.*?)```", PAGE, re.DOTALL)
}
# What the server notes, in the words of the pictures.
WORDS = {
    "start 200": "the first byte",
    "start 400": "the first byte",
    "chunk": "a chunk",
    "last": "the last byte",
    "websocket.send": "a message",
}
# Lines that nothing notes: the call comes, and the endpoint schedules.
CALLS = re.compile(r"request|connect|tasks\..*schedule\(f\)|schedules three .*")


class Stage:
    """An app whose one endpoint plays a moment, and a journal in the words of the pictures."""

    def __init__(self) -> None:
        self.app = FastAPI()
        add_tasks(self.app, observers=[self.note_skipped])
        self.journal = Journal()
        self.release = asyncio.Event()
        self.begun = threading.Event()

    async def f(self) -> None:
        """A task that goes on until the request has ended."""
        self.journal.add("f starts")
        self.begun.set()
        await self.release.wait()
        self.journal.add("f ends")

    async def note(self, words: str) -> None:
        """A task that writes words down."""
        self.journal.add(words)

    def note_skipped(self, event: TaskEvent) -> None:
        """An observer."""
        if event.kind == "skipped":
            self.journal.add('when="success" is skipped')

    async def function_scoped(self) -> AsyncIterator[None]:
        """A dependency that exits before the response."""
        try:
            yield
        finally:
            self.journal.add("function-scoped dependencies exit")

    def request_scoped(self) -> Iterator[None]:
        """A dependency of the usual kind."""
        try:
            yield
        finally:
            self.journal.add("request-scoped dependencies exit")

    def serve(self, endpoint: Callable[..., Any]) -> Server:
        """Serve `endpoint`, with a dependency of each kind."""
        function = Depends(self.function_scoped, scope="function")
        both = [function, Depends(self.request_scoped)]
        self.app.get("/", dependencies=both)(endpoint)
        self.app.websocket("/", dependencies=both)(endpoint)
        return Server(self.app, self.journal)

    def assert_shown(self, moment: str) -> None:
        """Every line of the picture has happened, in that order."""
        shown = [words for words in MOMENTS[moment] if not CALLS.fullmatch(words)]
        happened = [WORDS.get(str(event), str(event)) for event in self.journal.events]
        assert [words for words in happened if words in shown] == shown


async def test_every_picture_is_driven() -> None:
    """There is a test below for each picture."""
    assert set(MOMENTS) == {
        *("now", "after_route", "after_response", "streaming"),
        *("failure", "disconnect", "websocket"),
    }


@pytest.mark.parametrize("kind", ["async", "def"])
async def test_at_once(kind: Literal["async", "def"]) -> None:
    """T1, T3: a task of `tasks.schedule` starts while the endpoint goes on."""
    stage = Stage()

    async def endpoint(tasks: Tasks) -> None:
        stage.journal.add("the endpoint begins")
        tasks.schedule(stage.f)
        await asyncio.sleep(0)
        stage.journal.add("the endpoint returns")

    def endpoint_in_thread(tasks: Tasks) -> None:
        stage.journal.add("the endpoint begins")
        tasks.schedule(stage.f)
        assert stage.begun.wait(10)
        stage.journal.add("the endpoint returns")

    async with stage.serve(endpoint if kind == "async" else endpoint_in_thread) as server:
        await server.get("/")
        stage.release.set()
    stage.assert_shown("now")


@pytest.mark.parametrize("moment", ["after_route", "after_response"])
@pytest.mark.parametrize("kind", ["async", "def"])
async def test_phase(moment: str, kind: Literal["async", "def"]) -> None:
    """T3, T4: a deferred task starts at its phase, and delays nothing."""
    stage = Stage()

    def body(tasks: RequestTasks, background: BackgroundTasks) -> None:
        stage.journal.add("the endpoint begins")
        phase = tasks.after_route if moment == "after_route" else tasks.after_response
        phase.schedule(stage.f)
        background.add_task(stage.note, "BackgroundTasks run")
        stage.journal.add("the endpoint returns")

    async def endpoint(tasks: Tasks, background: BackgroundTasks) -> None:
        body(tasks, background)

    def endpoint_in_thread(tasks: Tasks, background: BackgroundTasks) -> None:
        body(tasks, background)

    async with stage.serve(endpoint if kind == "async" else endpoint_in_thread) as server:
        await server.get("/")
        stage.release.set()
    stage.assert_shown(moment)


async def test_streaming() -> None:
    """T4, T5: the response ends with its stream, and a late task starts at once."""
    stage = Stage()

    async def chunks(tasks: RequestTasks) -> AsyncIterator[str]:
        yield "a"
        stage.journal.add("the stream schedules f on after_route")
        tasks.after_route.schedule(stage.f)
        await asyncio.sleep(0)
        yield "b"

    async def endpoint(tasks: Tasks) -> Response:
        stage.journal.add("the endpoint begins")
        tasks.after_route.schedule(stage.note, "the after_route task starts")
        tasks.after_response.schedule(stage.note, "the after_response task starts")
        stage.journal.add("the endpoint returns")
        return StreamingResponse(chunks(tasks))

    async with stage.serve(endpoint) as server:
        await server.get("/")
        stage.release.set()
    stage.assert_shown("streaming")


async def test_failure() -> None:
    """T6: after a failure run the tasks that ask for one, and those that run always."""
    stage = Stage()

    async def endpoint(tasks: Tasks) -> None:
        stage.journal.add("the endpoint begins")
        tasks.after_response.schedule(stage.f)
        tasks.after_response.task(when="failure").schedule(stage.note, 'when="failure" starts')
        tasks.after_response.task(when="always").schedule(stage.note, 'when="always" starts')
        stage.journal.add("the endpoint raises")
        raise HTTPException(400)

    async with stage.serve(endpoint) as server:
        await server.get("/")
    stage.assert_shown("failure")
    assert "f starts" not in stage.journal.events


async def test_disconnect() -> None:
    """T4, T6: a client that goes away ends the request, and that is no failure."""
    stage = Stage()

    async def chunks() -> AsyncIterator[str]:
        try:
            yield "a"
            await asyncio.Event().wait()
        finally:
            stage.journal.add("the stream is closed")

    async def endpoint(tasks: Tasks) -> Response:
        stage.journal.add("the endpoint begins")
        tasks.after_response.schedule(stage.f)
        stage.journal.add("the endpoint returns")
        return StreamingResponse(chunks())

    async with stage.serve(endpoint) as server:
        connection = server.open("/")
        await connection.wait_sent("http.response.body")
        stage.journal.add("the client goes away")
        connection.give("http.disconnect")
        await connection.call
        stage.release.set()
    stage.assert_shown("disconnect")


async def test_websocket() -> None:
    """T4: both phases of a WebSocket come when its endpoint has ended."""
    stage = Stage()

    async def endpoint(websocket: WebSocket, tasks: Tasks) -> None:
        await websocket.accept()
        stage.journal.add("the endpoint begins")
        tasks.after_response.schedule(stage.note, "the after_response task starts")
        tasks.after_route.schedule(stage.note, "the after_route task starts")
        await websocket.send_text("hello")
        stage.journal.add("the endpoint returns")

    async with stage.serve(endpoint) as server:
        await server.open("/", kind="websocket").call
    stage.assert_shown("websocket")
