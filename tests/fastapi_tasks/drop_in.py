"""Programs that fastapi-tasks 0.1.0 on PyPI lets its users write, and that run here unchanged.

A program fails if what its docstring says is not so. It imports FastAPI and
`fastapi_tasks`, whichever the interpreter finds: `test_drop_in` runs each on ours,
`python -m tests.benchmarks.drop_in` on that of PyPI.
"""

import asyncio
import dataclasses
import functools
import logging
import threading
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from typing import Annotated, Any

from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI, HTTPException, Request, Response
from fastapi.responses import StreamingResponse
from fastapi.testclient import TestClient

from fastapi_tasks import TaskErrorHandler, Tasks, add_tasks, dependencies, errors
from fastapi_tasks.tasks import Task, TaskConfig, TasksBatch, TasksScheduler

HUNG = 5.0  # seconds after which an event counts as missing
TURNS = 100  # of the loop, in which a shutdown has come to cancel what it cancels
PROGRAMS: dict[str, Callable[[], None]] = {}
variable: ContextVar[str] = ContextVar("variable", default="default")


def program(run: Callable[[], None]) -> Callable[[], None]:
    """Put a program into `PROGRAMS`."""
    PROGRAMS[run.__name__] = run
    return run


class Events:
    """What happened, in order, from any thread."""

    def __init__(self) -> None:
        self._events: list[object] = []
        self._changed = threading.Condition()

    def add(self, event: object) -> None:
        """Append an event: a task that is a plain function."""
        with self._changed:
            self._events.append(event)
            self._changed.notify_all()

    async def note(self, event: object) -> None:
        """The same as a coroutine."""
        self.add(event)

    def wait_for(self, *events: object) -> None:
        """Wait until each of these has happened, as often as it is given."""
        with self._changed:
            if not self._changed.wait_for(lambda: Counter(events) <= Counter(self._events), HUNG):
                raise AssertionError(f"{events} expected, but there are {self._events}")

    @property
    def all(self) -> list[object]:
        """A copy of the list."""
        with self._changed:
            return self._events.copy()


class Server:
    """Calls an app as a server does, and tells what it hears and says.

    Attributes:
        shutdown: Set when the app is told to shut down.
        say: Called with the type of each message before it is sent.
    """

    def __init__(self, app: Any) -> None:
        self._app = app
        self.shutdown = asyncio.Event()
        self.say: Callable[[str], object] = str

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        # From this version on, a server raises when it sends to a client that is gone.
        scope["asgi"] = {"version": "3.0", "spec_version": "2.4"}

        async def hear() -> Any:
            message = await receive()
            if message["type"] == "lifespan.shutdown":
                self.shutdown.set()
            return message

        async def say(message: Any) -> None:
            self.say(message["type"])
            await send(message)

        await self._app(scope, hear, say)


@contextmanager
def serve(
    endpoint: Callable[..., Any], *, raising: bool = True, **options: Any
) -> Generator[TestClient]:
    """Serve an endpoint under `/`, on an app with tasks."""
    app = FastAPI(**options)
    add_tasks(app)
    app.get("/")(endpoint)
    with TestClient(Server(app), raise_server_exceptions=raising) as client:
        yield client


def get(endpoint: Callable[..., Any], events: Events, *awaited: object) -> None:
    """Make one request, and wait for what its tasks do before the app is stopped."""
    with serve(endpoint) as client:
        assert client.get("/").status_code == 200
        events.wait_for(*awaited)


@contextmanager
def logged() -> Generator[list[logging.LogRecord]]:
    """What is logged meanwhile."""
    records: list[logging.LogRecord] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    keep = Keep()
    logging.getLogger().addHandler(keep)
    try:
        yield records
    finally:
        logging.getLogger().removeHandler(keep)


# -- moments ----------------------------------------------------------------------------------


@program
def moments() -> None:
    """Tasks start at once, after the route and after the response, with their arguments."""
    events = Events()

    async def note(event: str, number: int, *, mark: str = "") -> None:
        events.add((event, number, mark))

    async def endpoint(tasks: Tasks) -> dict[str, int]:
        tasks.after_response.schedule(note, "response", 3, mark="!")
        tasks.after_route.schedule(note, "route", number=2)
        tasks.schedule(note, "now", 1)
        events.add("endpoint")
        return {"id": 1}

    awaited = ("now", 1, ""), ("route", 2, ""), ("response", 3, "!")
    get(endpoint, events, *awaited)
    assert events.all == ["endpoint", *awaited]


@program
def order_inside_a_moment() -> None:
    """Inside a moment tasks start in the order in which they were scheduled."""
    events = Events()

    async def endpoint(tasks: Tasks) -> None:
        for moment in tasks, tasks.after_route, tasks.after_response:
            for number in range(3):
                moment.schedule(events.note, number)

    get(endpoint, events, *[0, 1, 2] * 3)
    assert events.all == [0, 1, 2] * 3


@program
def immediate_task_runs_beside_the_endpoint() -> None:
    """A task scheduled at once runs while the endpoint waits."""
    events = Events()

    async def endpoint(tasks: Tasks) -> None:
        begun = asyncio.Event()

        async def begin() -> None:
            begun.set()

        tasks.schedule(begin)
        await begun.wait()
        events.add("endpoint")

    get(endpoint, events, "endpoint")


@program
def response_does_not_wait() -> None:
    """The response is there while tasks of every moment run."""
    events = Events()
    gate = threading.Event()

    async def wait() -> None:
        await asyncio.to_thread(gate.wait)
        events.add("done")

    async def endpoint(tasks: Tasks) -> None:
        tasks.schedule(wait)
        tasks.after_route.schedule(wait)

    with serve(endpoint) as client:
        assert client.get("/").status_code == 200
        assert "done" not in events.all
        gate.set()
        events.wait_for("done", "done")


@program
def plain_endpoint() -> None:
    """`def` endpoints schedule as well."""
    events = Events()

    def endpoint(tasks: Tasks) -> None:
        tasks.schedule(events.note, "now")
        tasks.after_route.schedule(events.note, "route")
        tasks.after_response.schedule(events.add, "response")

    get(endpoint, events, "now", "route", "response")


@program
def streaming() -> None:
    """`after_response` comes after the end of a stream, which may schedule for it."""
    events = Events()

    async def endpoint(tasks: Tasks) -> StreamingResponse:
        async def chunks() -> AsyncIterator[str]:
            yield "one"
            tasks.after_response.schedule(events.note, "scheduled in the stream")
            yield "two"
            events.add("end")

        tasks.after_response.schedule(events.note, "response")
        return StreamingResponse(chunks())

    get(endpoint, events, "response", "scheduled in the stream")
    assert events.all == ["end", "response", "scheduled in the stream"]


@program
def failed_endpoint() -> None:
    """What an endpoint that raises has deferred does not run; what it started does."""
    events = Events()
    failures: list[Exception] = [HTTPException(404), ValueError()]

    async def endpoint(tasks: Tasks) -> None:
        tasks.after_route.schedule(events.note, "route")
        tasks.after_response.schedule(events.note, "response")
        tasks.schedule(events.note, "now")
        raise failures.pop()

    with serve(endpoint, raising=False) as client:
        assert client.get("/").status_code == 500
        assert client.get("/").status_code == 404
        events.wait_for("now", "now")
    assert events.all == ["now", "now"]


@program
def failed_task() -> None:
    """A task that raises harms neither the response nor another task, and is logged."""
    events = Events()

    async def fail() -> None:
        raise ValueError("broken")

    async def endpoint(tasks: Tasks) -> None:
        tasks.schedule(fail)
        tasks.after_response.schedule(fail)
        tasks.after_response.schedule(events.note, "other")

    with logged() as records:
        get(endpoint, events, "other")
    failures = [record for record in records if record.levelno == logging.ERROR]
    assert [record.exc_info[0] for record in failures if record.exc_info] == [ValueError] * 2


@program
def background_tasks_beside() -> None:
    """FastAPI's own background tasks, and those of a response, run as before."""
    events = Events()

    async def endpoint(tasks: Tasks, background: BackgroundTasks) -> None:
        tasks.after_response.schedule(events.note, "task")
        background.add_task(events.note, "background")

    get(endpoint, events, "task", "background")
    assert events.all == ["background", "task"]


# -- functions ----------------------------------------------------------------------------------


class Service:
    """Has every kind of function."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self.loop_thread: threading.Thread | None = None

    async def __call__(self, *event: object) -> None:
        self._events.add(("object", *event))

    async def method(self, *event: object) -> None:
        self._events.add(("method", *event))

    def plain(self, *event: object) -> None:
        in_thread = threading.current_thread() is not self.loop_thread
        self._events.add(("plain", *event, in_thread))


@program
def kinds_of_functions() -> None:
    """Coroutine functions run on the loop, plain ones in a thread; methods, partials, objects."""
    events = Events()
    service = Service(events)

    async def endpoint(tasks: Tasks) -> None:
        service.loop_thread = threading.current_thread()
        tasks.schedule(service, 1)
        tasks.schedule(service.method, 2)
        tasks.schedule(functools.partial(service.method, 3), 4)
        tasks.schedule(service.plain, 5)
        tasks.schedule(functools.partial(service.plain, 6))
        tasks.schedule(lambda: events.add("lambda"))
        tasks.schedule(str.upper, "builtin")

    awaited = ("object", 1), ("method", 2), ("method", 3, 4), ("plain", 5, True), ("plain", 6, True)
    get(endpoint, events, *awaited, "lambda")


@program
def arguments_with_names_of_options() -> None:
    """Every keyword is the function's own, those with the names of options included."""
    events = Events()

    async def note(func: str, name: str, shield: bool, *, on_error: str) -> None:
        events.add((func, name, shield, on_error))

    async def endpoint(tasks: Tasks) -> None:
        tasks.schedule(note, func="f", name="n", shield=True, on_error="e")
        tasks.task(name="own").schedule(note, func="g", name="n", shield=False, on_error="e")

    get(endpoint, events, ("f", "n", True, "e"), ("g", "n", False, "e"))


@program
def context_variables() -> None:
    """An immediate task sees context variables as they were at `schedule`."""
    events = Events()

    async def note() -> None:
        events.add(variable.get())

    def note_in_thread() -> None:
        events.add(("thread", variable.get()))

    async def endpoint(tasks: Tasks) -> None:
        variable.set("endpoint")
        tasks.schedule(note)
        tasks.schedule(note_in_thread)
        variable.set("later")

    get(endpoint, events, "endpoint", ("thread", "endpoint"))


# -- options ------------------------------------------------------------------------------------


@program
def options() -> None:
    """`task(name=, shield=, on_error=)` at every moment; each may be left out, or be `None`."""
    events = Events()

    async def on_error(task: Task[..., Any], error: Exception) -> None: ...

    async def endpoint(tasks: Tasks) -> None:
        for moment in tasks, tasks.after_route, tasks.after_response:
            task = moment.task(name="mail", shield=True, on_error=on_error).schedule(events.note, 1)
            config = task.config
            assert (config.name, config.shield, config.on_error) == ("mail", True, on_error)
            assert config.shielded is True
            for unset in (
                moment.schedule(events.note, 2),
                moment.task().schedule(events.note, 3),
                moment.task(name=None, shield=None, on_error=None).schedule(events.note, 4),
            ):
                config = unset.config
                assert (config.name, config.shield, config.on_error) == (None, None, None)
                assert config.shielded is False
            task = moment.task(shield=False).schedule(events.note, 5)
            assert (task.config.shield, task.config.shielded) == (False, False)
        events.add("endpoint")

    get(endpoint, events, "endpoint", 1, 2, 3, 4, 5)


@program
def options_are_kept() -> None:
    """What `task(...)` returns can be used more than once."""
    events = Events()

    async def endpoint(tasks: Tasks) -> None:
        mail = tasks.after_response.task(name="mail")
        assert mail.schedule(events.note, 1).config.name == "mail"
        assert mail.schedule(events.note, 2).config.name == "mail"

    get(endpoint, events, 1, 2)


@program
def options_only_by_name() -> None:
    """`task` refuses positional arguments with a `TypeError`."""
    events = Events()

    async def endpoint(tasks: Tasks) -> None:
        task: Any = tasks.task
        try:
            task("mail")
        except TypeError:
            events.add("refused")

    get(endpoint, events, "refused")


@program
def error_handler() -> None:
    """A handler gets the task, with all that is known of it, and the exception."""
    events = Events()
    error = ValueError("broken")

    async def charge(order: int, *, currency: str) -> None:
        raise error

    async def on_error(task: Task[..., Any], exception: Exception) -> None:
        assert task.func is charge
        assert task.args == (7,)
        assert task.kwargs == {"currency": "EUR"}
        assert task.config.name == "charge"
        assert task.config.shield is True
        assert task.config.shielded is True
        assert task.config.on_error is on_error
        assert task.started.is_set()
        assert exception is error
        events.add("handled")

    async def endpoint(tasks: Tasks) -> None:
        options = tasks.task(name="charge", shield=True, on_error=on_error)
        options.schedule(charge, 7, currency="EUR")

    get(endpoint, events, "handled")


@program
def kinds_of_error_handlers() -> None:
    """A handler may be async or plain, a method, a partial; one is called for each failure."""
    events = Events()

    async def fail() -> None:
        raise ValueError

    def fail_in_thread() -> None:
        raise ValueError

    async def on_error(task: Any, error: Exception) -> None:
        events.add("async")

    def plain(task: Any, error: Exception) -> None:
        events.add("plain")

    def with_mark(mark: str, task: Any, error: Exception) -> None:
        events.add(mark)

    class Alert:
        async def send(self, task: Any, error: Exception) -> None:
            events.add("method")

    handlers: list[TaskErrorHandler] = [
        on_error,
        plain,
        functools.partial(with_mark, "partial"),
        Alert().send,
        lambda task, error: events.add("lambda"),
    ]

    async def endpoint(tasks: Tasks) -> None:
        for handler in handlers:
            tasks.task(on_error=handler).schedule(fail)
            tasks.after_response.task(on_error=handler).schedule(fail_in_thread)

    kinds = ["async", "plain", "partial", "method", "lambda"] * 2
    get(endpoint, events, *kinds)
    assert Counter(events.all) == Counter(kinds)


@program
def handler_that_tries_again() -> None:
    """A handler can schedule the function of a failed task again."""
    events = Events()

    async def endpoint(tasks: Tasks) -> None:
        attempts: list[int] = []

        async def unstable(number: int, *, mark: str) -> None:
            attempts.append(number)
            if len(attempts) == 1:
                raise ValueError
            events.add((number, mark))

        async def again(task: Task[..., Any], error: Exception) -> None:
            tasks.schedule(task.func, *task.args, **task.kwargs)

        tasks.task(on_error=again).schedule(unstable, 1, mark="!")

    get(endpoint, events, (1, "!"))


# -- names and types ----------------------------------------------------------------------------


@program
def handle() -> None:
    """`schedule` returns a `Task`, whose `started` is set when the function begins."""
    events = Events()

    async def endpoint(tasks: Tasks) -> None:
        task = tasks.schedule(events.note, "done")
        assert isinstance(task, Task)
        assert task.func == events.note
        assert not task.started.is_set()
        await task.started.wait()
        assert task.started.is_set()
        deferred = tasks.after_response.schedule(events.note, "deferred")
        assert isinstance(deferred, Task)
        assert not deferred.started.is_set()
        events.add("endpoint")

    get(endpoint, events, "done", "endpoint", "deferred")


@program
def names() -> None:
    """The names of the modules are there, and fit what an endpoint gets."""
    assert (dependencies.Tasks, dependencies.add_tasks) == (Tasks, add_tasks)
    events = Events()

    def schedule_mail(tasks: TasksScheduler, batch: TasksBatch) -> Task[..., None]:
        tasks.schedule(events.note, "now")
        return batch.schedule(events.note, "mail")

    async def endpoint(tasks: Tasks) -> None:
        assert isinstance(tasks, TasksScheduler)
        assert isinstance(tasks.after_route, TasksBatch)
        schedule_mail(tasks, tasks.after_response)

    get(endpoint, events, "now", "mail")


@program
def config() -> None:
    """`TaskConfig` takes options by name, compares by value, and is a dataclass."""

    async def on_error(task: Task[..., Any], error: Exception) -> None: ...

    config = TaskConfig(name="mail", shield=True, on_error=on_error)
    assert (config.name, config.shield, config.on_error) == ("mail", True, on_error)
    assert config.shielded
    assert not TaskConfig().shielded
    assert config == TaskConfig(name="mail", shield=True, on_error=on_error)
    assert config != TaskConfig(name="mail")
    assert dataclasses.replace(config, name="other").name == "other"
    fields = [field.name for field in dataclasses.fields(config)]
    assert fields[:3] == ["name", "shield", "on_error"]
    assert dataclasses.asdict(config)["name"] == "mail"


# -- applications -------------------------------------------------------------------------------


@program
def dependency() -> None:
    """Dependencies get the tasks of the same request, those with `yield` as well."""
    events = Events()

    async def audit(tasks: Tasks) -> None:
        tasks.after_response.schedule(events.note, "dependency")

    async def session(tasks: Tasks) -> AsyncIterator[TasksScheduler]:
        tasks.schedule(events.note, "session")
        yield tasks

    async def endpoint(
        tasks: Tasks, own: Annotated[Any, Depends(session, scope="function")]
    ) -> None:
        own.after_response.schedule(events.note, "own")
        tasks.after_response.schedule(events.note, "endpoint")

    app = FastAPI(dependencies=[Depends(audit)])
    app.get("/")(endpoint)
    add_tasks(app)
    with TestClient(app) as client:
        client.get("/")
        events.wait_for("session", "dependency", "own", "endpoint")


@program
def routers_and_middleware() -> None:
    """`add_tasks` comes before or after routers, mounted apps and middleware."""
    for first in True, False:
        events = Events()
        app = FastAPI()
        if first:
            add_tasks(app)
        add_routes(app, events)
        if not first:
            add_tasks(app)
        with TestClient(app) as client:
            assert client.get("/router").status_code == 200
            assert client.get("/mounted/").status_code == 200
            events.wait_for("task", "task")


def add_routes(app: FastAPI, events: Events) -> None:
    """Add an endpoint with a task to a router and to a mounted app, and a middleware."""
    mounted, router = FastAPI(), APIRouter()

    @app.middleware("http")
    async def pass_on(
        request: Request, call_next: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        return await call_next(request)

    @router.get("/router")
    @mounted.get("/")
    async def endpoint(tasks: Tasks) -> None:
        tasks.after_response.schedule(events.note, "task")

    app.include_router(router)
    app.mount("/mounted", mounted)


@program
def lifespan_of_the_app() -> None:
    """The app's own lifespan runs, and its state reaches requests."""
    events = Events()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[dict[str, str]]:
        events.add("start-up")
        yield {"pool": "open"}
        events.add("teardown")

    async def endpoint(request: Request, tasks: Tasks) -> str:
        tasks.schedule(events.note, request.state.pool)
        return str(request.state.pool)

    with serve(endpoint, lifespan=lifespan) as client:
        assert client.get("/").json() == "open"
        events.wait_for("open")
    assert events.all == ["start-up", "open", "teardown"]


@program
def shield_at_shutdown() -> None:
    """A shielded task completes though the app is stopped meanwhile."""
    events = Events()

    async def work(server: Server) -> None:
        await server.shutdown.wait()
        for _ in range(TURNS):
            await asyncio.sleep(0)
        events.add("done")

    async def endpoint(tasks: Tasks) -> None:
        tasks.task(shield=True).schedule(work, server)
        tasks.after_response.task(shield=True).schedule(work, server)

    with serve(endpoint) as client:
        server: Any = client.app
        client.get("/")
    assert events.all == ["done", "done"]


@program
def schema() -> None:
    """`Tasks` does not show in the OpenAPI schema."""

    async def endpoint(tasks: Tasks) -> None: ...

    with serve(endpoint) as client:
        operation = client.get("/openapi.json").json()["paths"]["/"]["get"]
    assert "parameters" not in operation
    assert "requestBody" not in operation


@program
def app_without_tasks() -> None:
    """Without `add_tasks`, or without a lifespan, `Tasks` raises the same error."""

    async def endpoint(tasks: Tasks) -> None: ...

    without, unstarted = FastAPI(), FastAPI()
    add_tasks(unstarted)
    for app in without, unstarted:
        app.get("/")(endpoint)
        caught: Exception | None = None
        try:
            TestClient(app).get("/")
        except errors.FastAPITasksError as error:
            caught = error
        assert isinstance(caught, errors.FastAPITasksUninitializedAppError)
