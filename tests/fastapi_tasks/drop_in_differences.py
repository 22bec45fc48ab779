"""Where fastapi-tasks 0.1.0 on PyPI and ours differ: the table of docs/howto/from-fastapi-tasks.md.

A program returns whether the `fastapi_tasks` that the interpreter finds does as 0.1.0
does; see `drop_in`. Run as a module, this tries both files on 0.1.0.
"""

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

from fastapi import Depends, FastAPI
from fastapi.responses import StreamingResponse
from fastapi.testclient import TestClient

import fastapi_tasks
from fastapi_tasks import Tasks, add_tasks
from fastapi_tasks.tasks import TaskConfig
from tests.fastapi_tasks.drop_in import PROGRAMS, TURNS, Events, get, logged, serve, variable

Program = Callable[[], bool]


@dataclass(frozen=True, slots=True)
class Difference:
    """One row of the table.

    Attributes:
        title: What differs.
        theirs: How it is in 0.1.0.
        ours: How it is here.
        is_theirs: Tries which of the two it is.
    """

    title: str
    theirs: str
    ours: str
    is_theirs: Program


DIFFERENCES: list[Difference] = []


def differs(title: str, theirs: str, ours: str) -> Callable[[Program], Program]:
    """Put a program into the table."""

    def add(program: Program) -> Program:
        DIFFERENCES.append(Difference(title, theirs, ours, program))
        return program

    return add


async def turn() -> None:
    """Let everything happen that waits for nothing."""
    for _ in range(TURNS):
        await asyncio.sleep(0)


def call(client: TestClient, func: Callable[[], Awaitable[object]]) -> None:
    """Call a coroutine function on the loop of the app, and wait for it."""
    assert client.portal is not None
    client.portal.call(func)


async def fail(*args: object) -> None:
    """Raise."""
    raise ValueError


# -- moments ----------------------------------------------------------------------------------


@differs("`after_route` tasks start", "after the first byte", "before the first byte")
def after_route() -> bool:
    events = Events()

    async def endpoint(tasks: Tasks) -> None:
        server.say = events.add
        tasks.after_route.schedule(events.note, "task")

    with serve(endpoint) as client:
        server: Any = client.app
        client.get("/")
        events.wait_for("task")
    return events.all[0] == "http.response.start"


@differs("`after_response` tasks start", "while `yield` dependencies exit", "when these have")
def after_response() -> bool:
    events = Events()

    async def session() -> AsyncIterator[None]:
        yield
        await turn()
        events.add("exited")

    async def endpoint(tasks: Tasks) -> None:
        tasks.after_response.schedule(events.note, "task")

    with serve(endpoint, dependencies=[Depends(session)]) as client:
        client.get("/")
        events.wait_for("task", "exited")
    return events.all == ["task", "exited"]


@differs("Deferred tasks, if a `yield` dependency fails as it exits", "run", "do not run")
def failing_dependency() -> bool:
    events = Events()

    async def session() -> AsyncIterator[None]:
        yield
        raise ValueError

    async def endpoint(tasks: Tasks) -> None:
        tasks.after_response.schedule(events.note, "task")

    with serve(endpoint, raising=False, dependencies=[Depends(session)]) as client:
        client.get("/")
        call(client, turn)
    return events.all == ["task"]


@differs("`after_response` tasks, if the server raises as the client is gone", "do not run", "run")
def client_is_gone() -> bool:
    events = Events()

    async def endpoint(tasks: Tasks) -> StreamingResponse:
        def lose(message: str) -> None:
            if message == "http.response.body":
                raise OSError

        server.say = lose
        tasks.after_response.schedule(events.note, "task")
        return StreamingResponse(iter(["one", "two"]))

    with serve(endpoint, raising=False) as client:
        server: Any = client.app
        client.get("/")
        call(client, turn)
    return events.all == []


@differs("A task scheduled for a moment that has passed", "is forgotten", "starts at once")
def passed() -> bool:
    events = Events()
    kept: list[Any] = []

    async def endpoint(tasks: Tasks) -> None:
        kept.append(tasks)

    async def schedule() -> None:
        for moment in kept[0].after_route, kept[0].after_response:
            moment.schedule(events.note, "late")
        await turn()

    with serve(endpoint) as client:
        client.get("/")
        call(client, schedule)
    return events.all == []


@differs("Deferred tasks see context variables", "as when they start", "as at `schedule`")
def context() -> bool:
    events = Events()

    async def note() -> None:
        events.add(variable.get())

    async def endpoint(tasks: Tasks) -> None:
        variable.set("at schedule")
        tasks.after_response.schedule(note)
        variable.set("at start")

    with serve(endpoint) as client:
        client.get("/")
        call(client, turn)
    return events.all == ["at start"]


# -- failures -----------------------------------------------------------------------------------


@differs("If an error handler fails,", "every task is cancelled", "it is logged")
def failing_handler() -> bool:
    events = Events()

    async def other() -> None:
        try:
            await turn()
            events.add("done")
        except asyncio.CancelledError:
            events.add("cancelled")
            raise

    async def endpoint(tasks: Tasks) -> None:
        tasks.schedule(other)
        tasks.task(on_error=fail).schedule(fail)

    with logged(), suppress(ExceptionGroup), serve(endpoint) as client:
        client.get("/")
    return events.all == ["cancelled"]


@differs("A failure that `on_error` gets is logged too", "yes", "no")
def logged_too() -> bool:
    events = Events()

    async def endpoint(tasks: Tasks) -> None:
        tasks.task(on_error=lambda task, error: events.add("handled")).schedule(fail)

    with logged() as records:
        get(endpoint, events, "handled")
    return any(record.exc_info for record in records)


@differs("The log shows the arguments of a failed task", "yes", "no")
def arguments_in_the_log() -> bool:
    events = Events()

    async def endpoint(tasks: Tasks) -> None:
        tasks.schedule(fail, "secret")
        tasks.after_response.schedule(events.note, "end")

    with logged() as records:
        get(endpoint, events, "end")
    (line,) = [record.getMessage() for record in records if record.exc_info]
    return "secret" in line


@differs("The logger is", "`fastapi_tasks.tasks`", "`taskcore`")
def logger() -> bool:
    events = Events()

    async def endpoint(tasks: Tasks) -> None:
        tasks.schedule(fail)
        tasks.after_response.schedule(events.note, "end")

    with logged() as records:
        get(endpoint, events, "end")
    (name,) = [record.name for record in records if record.exc_info]
    assert name in ("fastapi_tasks.tasks", "taskcore")
    return name != "taskcore"


# -- what is refused ------------------------------------------------------------------------------


def how_often_refused(*calls: Callable[[], object]) -> int:
    """How many calls raise one of the errors for wrong use."""
    refused = 0
    for call in calls:
        try:
            call()
        except (TypeError, ValueError, AttributeError, RuntimeError):
            refused += 1
    assert refused in (0, len(calls))
    return refused


@differs("Arguments that do not fit, or no function:", "logged later", "refused by `schedule`")
def wrong_calls() -> bool:
    events = Events()

    async def endpoint(tasks: Tasks) -> None:
        schedule: Any = tasks.schedule
        events.add(
            how_often_refused(
                lambda: schedule(events.note),
                lambda: schedule(events.note, 1, 2),
                lambda: schedule("no function"),
            )
        )

    with logged():
        get(endpoint, events)
    return events.all == [0]


@differs("Options of a wrong type, or an empty name:", "taken", "refused by `task`")
def wrong_options() -> bool:
    events = Events()

    async def endpoint(tasks: Tasks) -> None:
        task: Any = tasks.task
        events.add(
            how_often_refused(
                lambda: task(name=""),
                lambda: task(name=1),
                lambda: task(shield=1),
                lambda: task(on_error=turn),
            )
        )

    get(endpoint, events)
    return events.all == [0]


@differs("A second `add_tasks(app)`, or one after the start:", "taken", "refused")
def add_tasks_again() -> bool:
    twice, late = FastAPI(), FastAPI()
    add_tasks(twice)
    with TestClient(late):
        pass
    return how_often_refused(lambda: add_tasks(twice), lambda: add_tasks(late)) == 0


@differs("Change a `TaskConfig`, or make it of positional arguments:", "possible", "refused")
def config() -> bool:
    kind: Any = TaskConfig
    return how_often_refused(lambda: kind("mail"), lambda: setattr(kind(), "name", "mail")) == 0


@differs("`await task()`", "runs the function again", "is refused")
def call_handle() -> bool:
    events = Events()

    async def endpoint(tasks: Tasks) -> None:
        task: Any = tasks.schedule(events.note, "run")
        with suppress(TypeError):
            await task()

    with serve(endpoint) as client:
        client.get("/")
        call(client, turn)
    return events.all == ["run", "run"]


@differs(
    "`tasks.tg`, `tasks.after_route.scheduled`, `task.started.set()`, `fastapi_tasks.utils`",
    "there",
    "not there",
)
def internals() -> bool:
    events = Events()

    async def endpoint(tasks: Tasks) -> None:
        at: Any = tasks
        package: Any = fastapi_tasks
        events.add(
            how_often_refused(
                lambda: at.tg,
                lambda: at.after_route.scheduled,
                lambda: at.schedule(turn).started.set,
                lambda: package.utils,
            )
        )

    get(endpoint, events)
    return events.all == [0]


# -- threads, and the end ---------------------------------------------------------------------


@differs("Plain functions run in", "the threads of `def` endpoints", "threads of their own")
def threads() -> bool:
    events = Events()

    def note_thread() -> None:
        events.add(threading.current_thread().name.rstrip("0123456789"))

    def endpoint(tasks: Tasks) -> None:
        note_thread()
        events.add("endpoint")
        tasks.after_response.schedule(note_thread)
        tasks.after_response.schedule(events.add, "end")

    get(endpoint, events, "end")
    return events.all[0] in events.all[2:]


def at_shutdown(*, shield: bool) -> list[object]:
    """What becomes of a task that goes on for a while when the app is stopped."""
    events = Events()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        yield
        events.add("teardown")

    async def work() -> None:
        try:
            await server.shutdown.wait()
            await turn()
            events.add("done")
        except asyncio.CancelledError:
            events.add("cancelled")
            raise

    async def endpoint(tasks: Tasks) -> None:
        tasks.task(shield=shield).schedule(work)

    with serve(endpoint, lifespan=lifespan) as client:
        server: Any = client.app
        client.get("/")
    return events.all


@differs(
    "At shutdown, an unshielded task",
    "is cancelled, after the teardown",
    "has `grace_period` to end, before the teardown",
)
def unshielded() -> bool:
    events = at_shutdown(shield=False)
    assert events in (["teardown", "cancelled"], ["done", "teardown"])
    return "cancelled" in events


@differs(
    "At shutdown, a shielded task",
    "goes on after the teardown",
    "has `shield_timeout` more, before the teardown",
)
def shielded() -> bool:
    events = at_shutdown(shield=True)
    assert events in (["teardown", "done"], ["done", "teardown"])
    return events[0] == "teardown"


if __name__ == "__main__":  # on 0.1.0
    for name, run in PROGRAMS.items():
        run()
        print("runs:", name)
    for row in DIFFERENCES:
        assert row.is_theirs(), row.title
        print("so it is:", row.title, row.theirs)
