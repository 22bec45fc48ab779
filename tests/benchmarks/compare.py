"""What each way to run background tasks does in a FastAPI application: the table of README.md.

Run as `python -m tests.benchmarks.compare`; prints the Markdown table. Every cell is
tried, in a process of its own: an application with one endpoint is started, gets
requests and is stopped, by the ASGI messages that a server sends. A dash stands where a
library has no call for what is asked.
"""

# Without `annotations` from __future__: FastAPI reads those of the endpoints in `build`.
import asyncio
import inspect
import os
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from tests.benchmarks.environments import FASTAPI_TASKS, PEERS, ROOT, make, variables
from tests.benchmarks.tables import markdown_table

NAMES = {
    "background": "FastAPI's `BackgroundTasks`",
    "peer": "fastapi-tasks 0.1.0 on PyPI",
    "aiojobs": "aiojobs 1.4",
    "group": "`asyncio.TaskGroup`",
    "ours": "this project",
}
YES, NO, NONE = "yes", "no", "-"
HANGS = 15.0  # seconds after which a process counts as hung; nothing that ends takes a third of it
WHILE = 0.1  # seconds in which what is going to happen at once has happened


@dataclass
class Ways:
    """How to schedule in one library, as `way(func, *args)`; `None` where it has no such way."""

    now: Any = None
    after_route: Any = None
    after_response: Any = None
    shielded: Any = None
    cancel: str = "cancel"

    @property
    def some(self) -> Any:
        """The way that is its usual one."""
        return self.now or self.after_response


Use = Callable[[Ways], Awaitable[None]]


@dataclass
class Site:
    """One application, and the server's part of its life.

    Attributes:
        peer: Which library runs its tasks.
        use: What its endpoint does.
        options: For the owner of the tasks.
        events: What happened, in order.
    """

    peer: str
    use: Use | None = None
    options: dict[str, Any] = field(default_factory=dict[str, Any])
    events: list[str] = field(default_factory=list[str])

    async def note(self, event: str, seconds: float = 0.0) -> str:
        """A task: takes its time, and writes down that it was done."""
        await asyncio.sleep(seconds)
        self.events.append(event)
        return event

    async def run(self, requests: int = 1) -> None:
        """Start, serve, stop when the requests have ended."""
        await self.start()
        await asyncio.gather(*(self.get() for _ in range(requests)))
        await self.stop()

    async def start(self) -> None:
        self.app = build(self)
        self.messages: asyncio.Queue[Any] = asyncio.Queue()
        started = asyncio.Event()

        async def send(message: Any) -> None:
            started.set()

        self.messages.put_nowait({"type": "lifespan.startup"})
        scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
        self.state = scope["state"]
        self.lifespan = asyncio.ensure_future(self.app(scope, self.messages.get, send))
        await started.wait()

    async def stop(self) -> None:
        self.messages.put_nowait({"type": "lifespan.shutdown"})
        await self.lifespan

    async def get(self, path: str = "/") -> None:
        request = [{"type": "http.request", "body": b"", "more_body": False}]

        async def receive() -> Any:
            return request.pop() if request else await asyncio.Event().wait()

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                self.events.append("first byte")
            elif not message.get("more_body"):
                self.events.append("last byte")

        scope: dict[str, Any] = {"type": "http", "method": "GET", "path": path, "headers": []}
        scope |= {"query_string": b"", "http_version": "1.1", "state": dict(self.state)}
        with suppress(Exception):  # a server logs what comes out of an application
            await self.app(scope, receive, send)


def build(site: Site) -> Any:
    """The application of a peer, as its documentation shows it."""
    # Imported here, since only the processes that try a cell have these.
    import aiojobs
    from fastapi import BackgroundTasks, Depends, FastAPI

    from fastapi_tasks import Tasks, add_tasks  # ours, or that of PyPI

    owner: Any = None

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        nonlocal owner
        async with AsyncExitStack() as stack:
            stack.callback(site.events.append, "teardown")
            if site.peer == "aiojobs":
                owner = await stack.enter_async_context(aiojobs.Scheduler(**site.options))
            elif site.peer == "group":
                owner = await stack.enter_async_context(asyncio.TaskGroup())
            yield

    async def session() -> AsyncIterator[None]:
        yield
        await site.note("commit", 0.01)

    async def use(ways: Ways) -> None:
        if site.use is not None:
            await site.use(ways)
        site.events.append("endpoint")

    async def with_background(tasks: BackgroundTasks) -> None:
        await use(Ways(after_response=tasks.add_task))

    async def with_tasks(tasks: Tasks) -> None:  # type: ignore[valid-type]
        at: Any = tasks
        schedule = at.after_route.schedule, at.after_response.schedule
        await use(Ways(at.schedule, *schedule, at.task(shield=True).schedule))

    async def with_aiojobs() -> None:
        async def shield(func: Any, *args: Any) -> None:
            await owner.shield(func(*args))

        def spawn(func: Any, *args: Any) -> Any:
            return owner.spawn(func(*args))

        await use(Ways(spawn, shielded=lambda *call: spawn(shield, *call), cancel="close"))

    async def with_group() -> None:
        async def shield(func: Any, *args: Any) -> None:
            await asyncio.shield(func(*args))

        def create(func: Any, *args: Any) -> Any:
            return owner.create_task(func(*args))

        await use(Ways(create, shielded=lambda *call: create(shield, *call)))

    app = FastAPI(lifespan=lifespan)
    if site.peer in ("peer", "ours"):
        add_tasks(app, **site.options)
    endpoints = {"background": with_background, "aiojobs": with_aiojobs, "group": with_group}
    app.get("/", dependencies=[Depends(session)])(endpoints.get(site.peer, with_tasks))
    app.get("/plain")(lambda: None)
    return app


async def done(answer: Any) -> Any:
    """What a way gave back, awaited where it has to be."""
    return await answer if inspect.iscoroutine(answer) else answer


# -- what is asked; each answers yes, no, or a dash --------------------------------------------


async def now(peer: str) -> str:
    """A task starts while the endpoint goes on"""

    async def use(ways: Ways) -> None:
        await done(ways.some(site.note, "task"))
        await asyncio.sleep(WHILE)

    site = Site(peer, use)
    await site.run()
    return YES if site.events.index("task") < site.events.index("endpoint") else NO


async def after_route(peer: str) -> str:
    """...after the endpoint, before the first byte"""

    async def begins() -> None:
        site.events.append("task")

    async def use(ways: Ways) -> None:
        if ways.after_route:
            ways.after_route(begins)

    site = Site(peer, use)
    await site.run()
    if "task" not in site.events:
        return NONE
    order = [event for event in site.events if event in ("endpoint", "task", "first byte")]
    return YES if order == ["endpoint", "task", "first byte"] else NO


async def after_response(peer: str) -> str:
    """...after the response"""

    async def use(ways: Ways) -> None:
        if ways.after_response:
            ways.after_response(site.note, "task")

    site = Site(peer, use)
    await site.start()
    await site.get()
    await asyncio.sleep(WHILE)
    if "task" not in site.events:
        return NONE
    return YES if site.events.index("task") > site.events.index("last byte") else NO


async def committed(peer: str) -> str:
    """...and after a `yield` dependency has committed"""
    answer = await after_response(peer)
    if answer is not YES:
        return answer
    site = Site(peer)

    async def use(ways: Ways) -> None:
        ways.after_response(site.note, "task")

    site.use = use
    await site.start()
    await site.get()
    await asyncio.sleep(WHILE)
    return YES if site.events.index("task") > site.events.index("commit") else NO


async def harmless(peer: str, error: BaseException | None = None) -> str:
    """A task that raises harms no other"""

    async def fail() -> None:
        raise error or ValueError

    async def use(ways: Ways) -> None:
        await done(ways.some(fail))
        await done(ways.some(site.note, "task", WHILE))

    site = Site(peer, use)
    with suppress(ExceptionGroup):
        await site.start()
        await site.get()
        await asyncio.sleep(2 * WHILE)
        return YES if "task" in site.events else NO
    return NO


async def exits(peer: str) -> str:
    """...even one that raises `SystemExit`"""
    return await harmless(peer, SystemExit(0))


async def reaches(peer: str) -> str:
    """...or, where that is wanted, cancels the others and reaches their owner"""

    async def fail() -> None:
        raise ValueError

    async def use(ways: Ways) -> None:
        await done(ways.some(site.note, "task", WHILE))
        await done(ways.some(fail))

    site = Site(peer, use)
    try:
        await site.run()
    except (ValueError, ExceptionGroup):
        return NO if "task" in site.events else YES
    return NO


async def result(peer: str) -> str:
    """`schedule` returns a handle that gives the result"""
    answers: list[object] = []

    async def use(ways: Ways) -> None:
        handle = await done(ways.some(site.note, "task"))
        if hasattr(handle, "__await__"):
            answers.append(await handle)
        elif inspect.iscoroutinefunction(getattr(handle, "wait", None)):
            answers.append(await handle.wait())

    site = Site(peer, use)
    await site.run()
    return YES if answers == ["task"] else NO


async def cancels(peer: str) -> str:
    """...and can be cancelled"""

    async def long() -> None:
        try:
            await asyncio.sleep(2 * WHILE)
        except asyncio.CancelledError:
            site.events.append("cancelled")
            raise

    async def use(ways: Ways) -> None:
        handle = await done(ways.some(long))
        await asyncio.sleep(WHILE)
        with suppress(asyncio.CancelledError):
            await done(getattr(handle, ways.cancel, lambda: None)())
        await asyncio.sleep(0)

    site = Site(peer, use)
    await site.start()
    await site.get()
    return YES if "cancelled" in site.events else NO


async def limited(peer: str) -> str:
    """There can be a limit on the tasks that run at once"""
    if peer not in ("aiojobs", "ours"):
        return NONE
    running, most = 0, 0

    async def work() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(WHILE / 10)
        running -= 1

    async def use(ways: Ways) -> None:
        for _ in range(6):
            await done(ways.now(work))

    await Site(peer, use, {"limit": 2}).run()
    return YES if most == 2 else NO


async def plain(peer: str) -> str:
    """Plain functions run in a thread"""
    threads: list[threading.Thread] = []

    async def use(ways: Ways) -> None:
        await done(ways.some(lambda: threads.append(threading.current_thread())))

    with suppress(ExceptionGroup):
        site = Site(peer, use)
        await site.start()
        await site.get()
        await asyncio.sleep(WHILE)
    return YES if threads and threads[0] is not threading.main_thread() else NO


async def crowd(peer: str) -> str:
    """...and a hundred stuck ones do not hold up `def` endpoints"""
    if await plain(peer) == NO:
        return NONE

    async def use(ways: Ways) -> None:
        ways.some(time.sleep, 3600)

    site = Site(peer, use)
    await site.start()
    stuck = [asyncio.ensure_future(site.get()) for _ in range(100)]
    await asyncio.sleep(2 * WHILE)
    quick = asyncio.ensure_future(site.get("/plain"))
    await asyncio.wait([quick], timeout=2.0)
    del stuck
    print(YES if quick.done() else NO, flush=True)
    os._exit(0)  # `stuck` asks whether it would have ended by itself


async def from_thread(peer: str) -> str:
    """A task can be scheduled from a thread of one's own"""

    async def work() -> None:
        site.events.append("task")
        begun.set()

    def schedule(ways: Ways) -> None:
        time.sleep(WHILE)  # until the loop waits
        with suppress(Exception):
            answer = ways.some(work)
            with suppress(StopIteration):  # aiojobs: a coroutine that does not wait
                if inspect.iscoroutine(answer):
                    answer.send(None)

    async def use(ways: Ways) -> None:
        thread = threading.Thread(target=schedule, args=(ways,))
        thread.start()
        if ways.now is None:
            await asyncio.to_thread(thread.join)
        else:  # the loop has nothing to do until the task begins
            with suppress(TimeoutError):
                await asyncio.wait_for(begun.wait(), 1.0)

    begun = asyncio.Event()
    site = Site(peer, use)
    began = time.monotonic()
    await site.start()
    await site.get()
    return YES if "task" in site.events and time.monotonic() - began < 0.9 else NO


async def refused(peer: str) -> str:
    """Wrong arguments are refused at the call"""
    answers: list[str] = []

    async def use(ways: Ways) -> None:
        try:
            await done(ways.some(site.note))
        except TypeError:
            answers.append(YES)

    site = Site(peer, use)
    with suppress(ExceptionGroup):
        await site.run()
    return YES if answers else NO


async def finishes(peer: str) -> str:
    """At shutdown a running task may finish, before the lifespan's teardown"""

    async def use(ways: Ways) -> None:
        await done(ways.some(site.note, "task", 3 * WHILE))

    site = Site(peer, use)
    await site.run()
    return YES if "task" in site.events[: site.events.index("teardown")] else NO


def cleaned_up(peer: str) -> str:
    """A shielded task outlives the clean-up of the loop (a second Ctrl-C)"""

    async def use(ways: Ways) -> None:
        await done((ways.shielded or ways.some)(site.note, "task", 3 * WHILE))

    async def main() -> None:
        await site.start()
        site.request = asyncio.ensure_future(site.get())
        await asyncio.sleep(WHILE)

    site = Site(peer, use)
    asyncio.run(main())
    return YES if "task" in site.events else NO


async def bounded(peer: str, work: Any = None) -> str:
    """Shutdown ends although a task swallows its cancellation"""

    async def swallow() -> None:
        while True:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(3600)

    async def use(ways: Ways) -> None:
        await done(ways.some(work or swallow))

    options = {
        "ours": {"grace_period": WHILE, "shield_timeout": WHILE},
        "aiojobs": {"wait_timeout": WHILE, "close_timeout": WHILE},
    }
    await Site(peer, use, options.get(peer, {})).run()
    return YES


def stuck(peer: str) -> str:
    """...or is stuck in a thread, and the process can end"""
    if asyncio.run(plain(peer)) == NO:
        return NONE
    return asyncio.run(bounded(peer, lambda: time.sleep(3600)))


_MOMENTS = (now, after_route, after_response, committed)
_FAILURES = (harmless, exits, reaches)
_USE = (result, cancels, limited, plain, crowd, from_thread, refused)
_SHUTDOWN = (finishes, cleaned_up, bounded, stuck)
QUESTIONS: dict[str, Callable[[str], Any]] = {
    question.__name__: question for question in (*_MOMENTS, *_FAILURES, *_USE, *_SHUTDOWN)
}


def ask(question: str, peer: str) -> None:
    """Print the answer of one cell, in a process of its own."""
    answer = QUESTIONS[question]
    print(asyncio.run(answer(peer)) if inspect.iscoroutinefunction(answer) else answer(peer))


def cell(python: str, question: str, peer: str) -> str:
    """Ask in a process of its own; one that does not end, or ends early, is a no."""
    environment = variables()
    if peer == "ours":
        environment["PYTHONPATH"] = f"{FASTAPI_TASKS}{os.pathsep}{environment['PYTHONPATH']}"
    command = [python, "-m", "tests.benchmarks.compare", question, peer]
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            answer, complaint = process.communicate(timeout=HANGS)
        except subprocess.TimeoutExpired:
            process.kill()
            return NO
    if process.returncode and "BENCH_DEBUG" in os.environ:
        print(question, peer, complaint, file=sys.stderr)
    return answer.strip() or NO


def main() -> None:
    """Print the table."""
    python = make("peers", PEERS)
    rows = [["", *NAMES.values()]]
    for name, question in QUESTIONS.items():
        rows.append([question.__doc__ or "", *(cell(python, name, peer) for peer in NAMES)])
        print(rows[-1], file=sys.stderr)
    print(markdown_table(rows))


if __name__ == "__main__":
    ask(*sys.argv[1:]) if sys.argv[1:] else main()
