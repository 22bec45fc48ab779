"""Observers: what they are told, in which order, and that they harm nothing."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any

import pytest
import structlog
import tenacity

from taskcore import ScopeState, Task, TaskEvent, TaskScope, TaskState
from taskcore._observe import tell
from taskcore.errors import BacklogFullError, ConfigTypeError, ScopeClosedError
from taskcore.spi import Instrument, Scheduler, ScopeEvent


async def nothing() -> None:
    pass


async def fail() -> None:
    raise ValueError


class Watch:
    """An observer that keeps what it was told."""

    def __init__(self) -> None:
        self.events: list[TaskEvent] = []
        self.threads: set[int] = set()

    def __call__(self, event: TaskEvent) -> None:
        self.threads.add(threading.get_ident())
        self.events.append(event)

    def of(self, task: object) -> list[str]:
        return [event.kind for event in self.events if event.task is task]


async def ignore(task: Task[..., Any], error: BaseException) -> None:
    pass


async def test_events_of_tasks() -> None:
    """Each task is told of when it is scheduled, started and finished, however it ends."""
    watch = Watch()
    async with TaskScope(limit=1, observers=[watch]) as scope:
        succeeding = scope.schedule(nothing)
        failing = scope.task(on_error=ignore).schedule(fail)
        in_thread = scope.schedule(max, 1, 2)
        cancelled = scope.schedule(asyncio.Event().wait)
        never_begun = scope.schedule(nothing)
        never_begun.cancel()
        await cancelled.started.wait()
        cancelled.cancel()
    whole = ["scheduled", "started", "finished"]
    for task in (succeeding, failing, in_thread, cancelled):
        assert watch.of(task) == whole
    assert watch.of(never_begun) == ["scheduled", "finished"]
    assert watch.threads == {threading.get_ident()}
    times = [event.time for event in watch.events]
    assert times == sorted(times)


async def test_events_of_the_bare_kind() -> None:
    """Without a limit, and from a thread, tasks are told of as well, on the loop."""
    watch = Watch()
    async with TaskScope(observers=[watch]) as scope:
        tasks = [
            scope.schedule(nothing),
            await asyncio.to_thread(scope.schedule, nothing),
            await asyncio.to_thread(scope.schedule, max, 1, 2),
            scope.task(delay=0).schedule(nothing),
        ]
    for task in tasks:
        assert watch.of(task) == ["scheduled", "started", "finished"]
    assert watch.threads == {threading.get_ident()}


async def test_event_shows_the_state() -> None:
    """A task is in the state that the event brought it to."""
    states: list[tuple[str, TaskState]] = []

    def watch(event: TaskEvent) -> None:
        states.append((event.kind, event.task.state))

    async with TaskScope(observers=[watch]) as scope:
        scope.task(on_error=ignore).schedule(fail)
    kind, accepted = states.pop(0)
    assert kind == "scheduled"
    assert accepted in (TaskState.WAITING, TaskState.SCHEDULED)
    assert states == [
        ("started", TaskState.RUNNING),
        ("finished", TaskState.FAILED),
    ]


async def test_skipped() -> None:
    """T6: a task that will not run is reported as skipped, and never as started."""
    watch = Watch()
    async with TaskScope(observers=[watch]) as scope:
        async with scope.lifecycle("end") as unit:
            task = unit.phase("end").task(when="failure").schedule(nothing)
        late = unit.phase("end").task(when="failure").schedule(nothing)
    assert watch.of(task) == watch.of(late) == ["scheduled", "skipped"]


async def test_cancelled_on_the_way_from_a_thread() -> None:
    """A task that is cancelled before the loop has seen it is told of in order as well."""
    watch = Watch()
    handles: list[Task[..., Any]] = []

    def schedule(target: Scheduler) -> None:
        handles.append(target.schedule(nothing))

    async with TaskScope(limit=1, observers=[watch]) as scope:
        unit = scope.lifecycle("end")
        for target in (scope, scope.task(delay=1), unit.phase("end")):
            thread = threading.Thread(target=schedule, args=(target,))
            thread.start()
            thread.join()  # the loop stands still meanwhile
            assert handles[-1].cancel()
    assert [task.state for task in handles] == [TaskState.CANCELLED] * 3
    assert [watch.of(task) for task in handles] == [["scheduled", "finished"]] * 3


async def test_refused() -> None:
    """L1: a task that was refused was never accepted, so no observer is told of it."""
    watch = Watch()
    async with TaskScope(limit=1, backlog=0, observers=[watch]) as scope:
        running = scope.schedule(asyncio.Event().wait)
        for target in (scope, scope.task(delay=1), scope.lifecycle("end").phase("end")):
            with pytest.raises(BacklogFullError):
                target.schedule(nothing)
            with pytest.raises(BacklogFullError):
                await asyncio.to_thread(target.schedule, nothing)
        await running.started.wait()
        running.cancel()
    assert {event.task for event in watch.events} == {running}


async def test_observer_that_raises(caplog: pytest.LogCaptureFixture) -> None:
    """An observer that raises is logged each time, and harms neither tasks nor other observers."""
    watch = Watch()

    def broken(event: TaskEvent) -> None:
        raise ValueError("watch")

    async with TaskScope(limit=1, grace_period=0, observers=[broken, watch]) as scope:
        tasks = [scope.task(name="save").schedule(nothing) for _ in range(2)]
    for task in tasks:
        assert watch.of(task) == ["scheduled", "started", "finished"]
    messages = [record.getMessage() for record in caplog.records if record.name == "taskcore"]
    assert len(messages) == 6
    assert "failed on 'scheduled' of task 'save'" in messages[0]
    assert all(r.levelno == logging.ERROR for r in caplog.records if r.name == "taskcore")


@pytest.mark.parametrize("error", [asyncio.CancelledError, GeneratorExit, SystemExit])
async def test_observer_that_raises_no_exception(
    error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    """An observer that raises what is no `Exception` is logged as well, and harms nothing."""
    watch = Watch()

    def broken(event: TaskEvent) -> None:
        raise error

    async with TaskScope() as scope:
        task = scope.schedule(nothing)
        tell((broken, watch), TaskEvent("scheduled", task, 0.0))
    assert watch.of(task) == ["scheduled"]
    (record,) = (record for record in caplog.records if record.name == "taskcore")
    assert "failed on 'scheduled' of task 'nothing'" in record.getMessage()


@pytest.mark.timeout(10)  # what was cancelled and started all the same never ends
@pytest.mark.parametrize("kind", ["scheduled", "started"])
@pytest.mark.parametrize("limit", [None, 1])
@pytest.mark.parametrize("defer", [False, True], ids=["immediate", "deferred"])
async def test_observer_that_cancels(kind: str, limit: int | None, defer: bool) -> None:
    """An observer may cancel the task that it is told of, at any moment."""
    begun: list[str] = []

    async def begin() -> None:
        begun.append("begun")
        await asyncio.Event().wait()

    def watch(event: TaskEvent) -> None:
        if event.kind == kind and event.task.func is begin:
            event.task.cancel()

    async with TaskScope(limit=limit, grace_period=0, observers=[watch]) as scope:
        unit = scope.lifecycle("end")
        task = (unit.phase("end") if defer else scope).schedule(begin)
        unit.close()
        sibling = scope.schedule(max, 1, 2)
        await task.wait()
        assert await sibling == 2
        assert task.cancelled()
    assert begun == ([] if kind == "scheduled" else begun)


async def test_observer_that_schedules() -> None:
    """An observer may schedule, and the scope's end waits for that as well."""
    follow_ups: list[Task[..., Any]] = []

    def watch(event: TaskEvent) -> None:
        if event.kind == "finished" and len(follow_ups) < 3:
            follow_ups.append(scope.schedule(nothing))

    async with TaskScope(limit=1, observers=[watch]) as scope:
        scope.schedule(nothing)
    assert [task.state.value for task in follow_ups] == ["succeeded"] * 3


async def test_observer_that_schedules_while_threads_tasks_arrive() -> None:
    """T2: what a thread has scheduled keeps its order, though an observer schedules between."""
    begun: list[str] = []

    async def begin(name: str) -> None:
        begun.append(name)

    def watch(event: TaskEvent) -> None:
        if event.kind == "scheduled" and event.task.args == ("first",):
            scope.schedule(begin, "of the observer")

    def schedule() -> None:
        scope.schedule(begin, "first")
        scope.schedule(begin, "second")

    async with TaskScope(observers=[watch]) as scope:
        thread = threading.Thread(target=schedule)
        thread.start()
        thread.join()
    assert [name for name in begun if name != "of the observer"] == ["first", "second"]
    assert len(begun) == 3


async def test_context_of_an_observer() -> None:
    """I4: an observer that hears of `schedule` sees the context of the caller, also a thread's."""
    seen: list[str] = []

    def watch(event: TaskEvent) -> None:
        if event.kind == "scheduled":
            seen.append(place.get())

    def schedule(name: str) -> None:
        place.set(name)
        scope.schedule(nothing)

    async with TaskScope(observers=[watch]) as scope:
        for name in ("first", "second"):
            thread = threading.Thread(target=schedule, args=(name,))
            thread.start()
            thread.join()
        scope.schedule(nothing)
    assert seen == ["first", "second", "nowhere"]


async def test_event_has_the_handle() -> None:
    """An observer gets the same handle that the caller has."""
    watch = Watch()
    add: Callable[..., int] = max
    async with TaskScope(observers=(watch,)) as scope:
        task = scope.schedule(add, 1, 2)
        await task
    assert [event.task is task for event in watch.events] == [True] * 3


@pytest.mark.virtual
async def test_event_of_scope_and_duration() -> None:
    """An event names the scope, and how long the function has run; `None` if it never began."""
    watch = Watch()
    await asyncio.sleep(5)
    async with TaskScope(observers=[watch]) as scope:
        scope.schedule(asyncio.sleep, 3)
        scope.task(name="never").schedule(nothing).cancel()
    assert {event.scope for event in watch.events} == {scope}
    durations = [(event.kind, event.task.name, event.duration) for event in watch.events]
    assert durations == [
        ("scheduled", "sleep", None),
        ("scheduled", "never", None),
        ("finished", "never", None),
        ("started", "sleep", None),
        ("finished", "sleep", 3),
    ]


async def test_observers_that_are_no_list() -> None:
    """Observers that could be read only once, or are one function, are refused at the call."""
    watch = Watch()
    for wrong in (watch, iter([watch])):
        with pytest.raises(ConfigTypeError, match=r"is no list; pass \[function, ...\]"):
            TaskScope(observers=wrong)  # type: ignore[arg-type]


# -- retries ---------------------------------------------------------------------------------


@pytest.mark.virtual
async def test_retried() -> None:
    """Each further attempt is told, with its number, when it begins: after the wait before it."""
    watch = Watch()
    retry = tenacity.AsyncRetrying(
        stop=tenacity.stop_after_attempt(3), wait=tenacity.wait_fixed(10), reraise=True
    )
    async with TaskScope(observers=[watch]) as scope:
        scope.task(retry=retry, on_error=ignore).schedule(fail)
    begun = watch.events[0].time
    assert [(event.kind, event.attempt, event.time - begun) for event in watch.events] == [
        ("scheduled", None, 0),
        ("started", None, 0),
        ("retried", 2, 10),
        ("retried", 3, 20),
        ("finished", None, 20),
    ]


async def test_retried_in_a_thread() -> None:
    """A further attempt in a thread is told on the loop, and the task starts once."""
    watch = Watch()
    retry = tenacity.AsyncRetrying(stop=tenacity.stop_after_attempt(2))
    async with TaskScope(observers=[watch]) as scope:
        task = scope.task(retry=retry, on_error=ignore).schedule(int, "x")
    assert watch.of(task) == ["scheduled", "started", "retried", "finished"]
    assert watch.threads == {threading.get_ident()}


async def test_no_retry_is_told_of_one_attempt() -> None:
    """A task that has a retry and needs one attempt, or has none, is never told as retried."""
    watch = Watch()
    async with TaskScope(observers=[watch]) as scope:
        scope.task(retry=tenacity.AsyncRetrying()).schedule(nothing)
        scope.task(limiter=asyncio.Semaphore()).schedule(nothing)
    assert "retried" not in {event.kind for event in watch.events}


# -- order and harm --------------------------------------------------------------------------


async def test_events_come_in_order_to_all() -> None:
    """What an observer brings about is told after what it was told, to every observer."""
    watches = Watch(), Watch()

    def cancel(event: TaskEvent) -> None:
        if event.kind == "scheduled" and event.task.name == "cancelled":
            event.task.cancel()
            scope.task(name="follow-up").schedule(nothing)

    async with TaskScope(observers=[watches[0], cancel, watches[1]]) as scope:
        cancelled = scope.task(name="cancelled").schedule(nothing)
    assert watches[0].events == watches[1].events
    names = [(event.task.name, event.kind) for event in watches[0].events]
    assert names == [
        ("cancelled", "scheduled"),
        ("cancelled", "finished"),
        ("follow-up", "scheduled"),
        ("follow-up", "started"),
        ("follow-up", "finished"),
    ]
    assert cancelled.cancelled()


class Meddler(Watch):
    """Cancels every task that it knows, and schedules another, at each event of a kind."""

    def __init__(self, kind: str, scope: Callable[[], TaskScope]) -> None:
        super().__init__()
        self.kind = kind
        self.scope = scope
        self.tasks: list[Task[..., Any]] = []

    def __call__(self, event: TaskEvent) -> None:
        super().__call__(event)
        if event.kind == "scheduled":
            self.tasks.append(event.task)
        if event.kind == self.kind and event.task.name != "follow-up":
            for task in self.tasks:
                task.cancel()
            self.scope().task(name="follow-up").schedule(nothing)


KINDS = ["scheduled", "started", "retried", "finished", "skipped", "abandoned"]


@pytest.mark.parametrize("limit", [None, 2])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.virtual
async def test_observer_that_cancels_and_schedules_at_any_event(
    kind: str, limit: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever is cancelled from inside an event, each task is told once and no slot is lost."""
    meddler = Meddler(kind, lambda: scope)
    twice = tenacity.AsyncRetrying(stop=tenacity.stop_after_attempt(2), reraise=True)
    async with TaskScope(limit=limit, grace_period=1, observers=[meddler]) as scope:
        unit = scope.lifecycle("first", "last")
        for _ in range(3):
            scope.task(on_error=ignore, retry=twice).schedule(fail)
            scope.schedule(swallow_one)
            scope.task(delay=5).schedule(nothing)
            for phase in ("first", "last"):
                unit.phase(phase).task(when="failure").schedule(nothing)
                unit.phase(phase).schedule(asyncio.sleep, 60)
        await asyncio.sleep(0.1)
        unit.advance("first")
        await asyncio.sleep(0.1)
        await scope.drain()
    for task in meddler.tasks:
        first, *_, last = meddler.of(task)
        assert first == "scheduled"
        assert last in ("finished", "skipped", "abandoned")
        assert len(set(meddler.of(task))) == len(meddler.of(task))
    statistics = scope.statistics()
    assert [(lane.running, lane.waiting, lane.deferred) for lane in statistics.lanes] == (
        [(0, 0, 0)] if limit else []
    )
    caplog.clear()


async def swallow_one() -> None:
    """Goes on after its first cancellation, and is stuck for good."""
    try:
        await asyncio.sleep(60)
    finally:
        await asyncio.sleep(60)


@pytest.mark.timeout(20)  # the drain that looks for who is overdue again and again never ends
@pytest.mark.parametrize("deferred", [False, True], ids=["cancelled", "settled"])
@pytest.mark.virtual
async def test_observer_that_cancels_siblings_during_the_drain(deferred: bool) -> None:
    """S3: what an observer cancels while the drain does so is told and reported once."""
    watch = Watch()
    tasks: list[Task[..., Any]] = []

    def cancel_all(event: TaskEvent) -> None:
        if event.kind == "finished":
            for task in tasks:
                task.cancel()

    async with TaskScope(limit=4, grace_period=1, observers=[cancel_all, watch]) as scope:
        unit = scope.lifecycle("end")
        held = scope.task(shield=True).schedule(asyncio.sleep, 10)
        if deferred:
            tasks += [unit.phase("end").schedule(nothing) for _ in range(3)]
            tasks += [scope.task(delay=60).schedule(nothing) for _ in range(3)]
        tasks += [scope.schedule(asyncio.Event().wait) for _ in range(6)]
        await asyncio.sleep(0)
        report = await scope.drain()
    assert {entry.id for entry in report.cancelled} == {task.id for task in tasks}
    assert len(report.cancelled) == len(tasks)
    assert [entry.id for entry in report.succeeded] == [held.id]
    assert all(watch.of(task).count("finished") == 1 for task in tasks)


# -- instruments -----------------------------------------------------------------------------

place: ContextVar[str] = ContextVar("place", default="nowhere")


class Recorder(Instrument):
    """An instrument that keeps what it hears, and marks the context of each task."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, object]] = []
        self.reports: list[object] = []

    def __call__(self, event: TaskEvent) -> None:
        self.heard.append((event.kind, event.task.name))

    def on_enter(self, task: Task[..., Any]) -> None:
        self.heard.append(("enter", task.name))
        place.set(task.name)

    def on_scope(self, event: ScopeEvent) -> None:
        assert event.state is event.scope.state
        self.heard.append(("scope", event.state))
        self.reports.append(event.report)


async def where() -> str:
    return place.get()


def where_plain() -> str:
    return place.get()


async def test_instrument_hears_of_all() -> None:
    """An instrument hears of the scope's states, and of each task before it goes to work."""
    recorder = Recorder()
    async with TaskScope(observers=[recorder]) as scope:
        await scope.schedule(nothing)
        await scope.task(name="largest").schedule(max, 1, 2)
    assert recorder.heard == [
        ("scope", ScopeState.OPEN),
        *((kind, "nothing") for kind in ("scheduled", "enter", "started", "finished")),
        *((kind, "largest") for kind in ("scheduled", "enter", "started", "finished")),
        ("scope", ScopeState.DRAINING),
        ("scope", ScopeState.CLOSED),
    ]


@pytest.mark.virtual
async def test_instrument_hears_each_stage_of_a_drain(caplog: pytest.LogCaptureFixture) -> None:
    """S3: each stage of a drain is told, once, and the last one with the report."""
    recorder = Recorder()
    async with TaskScope(grace_period=1, shield_timeout=1, observers=[recorder]) as scope:
        scope.task(shield=True).schedule(swallow_one)
        await asyncio.sleep(0)
        report, _ = await asyncio.gather(scope.drain(), scope.drain())
    states = [what for kind, what in recorder.heard if kind == "scope"]
    assert states == list(ScopeState)[1:]
    assert recorder.reports == [None, None, None, None, report]
    caplog.clear()


@pytest.mark.parametrize("options", [{}, {"limit": 1}, {"delay": 0}, {"timeout": 5}])
async def test_context_of_a_task(options: dict[str, Any]) -> None:
    """I4: what an instrument sets in a task's context is seen by its function, and by no other."""
    limit = 1 if options == {"limit": 1} else None
    options = {name: value for name, value in options.items() if name != "limit"}
    with ThreadPoolExecutor(1) as executor:
        async with TaskScope(limit=limit, observers=[Recorder()]) as scope:
            unit = scope.lifecycle("end")
            tasks = [
                scope.task(name="coroutine", **options).schedule(where),
                scope.task(name="thread", **options).schedule(where_plain),
                scope.task(name="executor", run_in=executor, **options).schedule(where_plain),
                await asyncio.to_thread(scope.task(name="sent", **options).schedule, where),
                unit.phase("end").task(name="late", **options).schedule(where),
            ]
            unit.close()
            assert [await task for task in tasks] == [task.name for task in tasks]
    assert place.get() == "nowhere"


async def test_context_of_all_that_runs_for_a_task() -> None:
    """The limiter, each attempt in its thread and the error handler run in the task's context."""
    places: list[tuple[str, str]] = []

    class Limiter(asyncio.Semaphore):
        async def __aenter__(self) -> None:
            places.append(("limiter", place.get()))

    def attempt() -> None:
        places.append(("function", place.get()))
        raise LookupError

    def handle(task: Task[..., Any], error: BaseException) -> None:
        places.append(("handler", place.get()))

    async def twice(func: Callable[..., Awaitable[Any]]) -> None:
        for _ in range(2):
            with contextlib.suppress(LookupError):
                await func()
        raise LookupError

    async with TaskScope(observers=[Recorder()]) as scope:
        configured = scope.task(name="save", on_error=handle, limiter=Limiter(), retry=twice)
        configured.schedule(attempt)
    attempts = [("limiter", "save"), ("function", "save")] * 2
    assert places == [*attempts, ("handler", "save")]


async def test_task_that_never_goes_to_work() -> None:
    """A task that is cancelled or skipped while it waits is never entered."""
    recorder = Recorder()
    async with TaskScope(limit=1, observers=[recorder]) as scope:
        scope.schedule(nothing)
        scope.task(name="waiting").schedule(nothing).cancel()
        scope.task(name="delayed", delay=60).schedule(nothing).cancel()
        scope.task(name="at once").schedule(nothing).cancel()
        async with scope.lifecycle("end") as unit:
            unit.phase("end").task(when="failure", name="skipped").schedule(nothing)
    assert [name for kind, name in recorder.heard if kind == "enter"] == ["nothing"]


async def test_instrument_that_raises(caplog: pytest.LogCaptureFixture) -> None:
    """An instrument that raises is logged, by what it failed on, and harms nothing."""

    class Broken(Instrument):
        def on_enter(self, task: Task[..., Any]) -> None:
            raise ValueError

        def on_scope(self, event: ScopeEvent) -> None:
            raise ValueError

    recorder = Recorder()
    async with TaskScope(name="app", observers=[Broken(), recorder]) as scope:
        task = scope.task(name="save").schedule(where)
        assert await task == "save"
    records = [record for record in caplog.records if record.name == "taskcore"]
    assert [record.getMessage().partition(" failed on ")[2] for record in records] == [
        "'open' of scope 'app'",
        f"'enter' of task 'save' (id {task.id})",
        "'draining' of scope 'app'",
        "'closed' of scope 'app'",
    ]
    assert {record.scope for record in records} == {"app"}  # type: ignore[attr-defined]


async def test_instrument_that_schedules_and_cancels() -> None:
    """An instrument may schedule when the scope opens, and cancel the task that it enters."""

    class Busy(Instrument):
        def on_enter(self, task: Task[..., Any]) -> None:
            if task.name == "cancelled":
                task.cancel()

        def on_scope(self, event: ScopeEvent) -> None:
            if event.state is ScopeState.OPEN:
                first.append(event.scope.schedule(max, 1, 2))
            else:
                with pytest.raises(ScopeClosedError):
                    event.scope.schedule(nothing)

    first: list[Task[..., int]] = []
    async with TaskScope(observers=[Busy()]) as scope:
        direct = scope.task(name="cancelled").schedule(asyncio.Event().wait)
        limited = scope.task(name="cancelled", timeout=60).schedule(asyncio.Event().wait)
        assert await first[0] == 2
    assert direct.cancelled()
    assert limited.cancelled()


# -- the log ---------------------------------------------------------------------------------


async def test_phase_of_a_task() -> None:
    """A task knows the phase that it was scheduled on, reached or not, also when it has ended."""
    async with TaskScope() as scope, scope.lifecycle("stored", "answered") as unit:
        unit.advance("stored")
        tasks = [
            scope.schedule(nothing),
            scope.task(delay=0).schedule(nothing),
            unit.schedule(nothing),
            unit.phase("stored").schedule(nothing),
            unit.phase("answered").task(shield=True).schedule(nothing),
        ]
        phases = [task.phase for task in tasks]
    assert phases == [None, None, None, "stored", "answered"]
    assert [task.phase for task in tasks] == phases


async def fail_once_each(scope: TaskScope) -> tuple[Task[..., Any], Task[..., Any]]:
    """Fail at once, and in a phase."""
    immediate = scope.task(name="save").schedule(fail, *())
    await immediate.wait()
    async with scope.lifecycle("answered") as unit:
        deferred = unit.phase("answered").schedule(fail)
    await deferred.wait()
    return immediate, deferred


def facts_of(task: Task[..., Any], phase: str | None) -> dict[str, object]:
    """What a record about a task carries."""
    return {
        "task_name": task.name,
        "task_id": task.id,
        "task_function": "fail",
        "phase": phase,
        "scope": "app",
    }


class Lines(logging.Handler):
    """Keeps what its formatter makes of each record."""

    def __init__(self, formatter: logging.Formatter) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self.lines: list[dict[str, object]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(json.loads(self.format(record)))


@pytest.fixture
def logger() -> Any:
    """The logger of the package, without what a test adds to it."""
    logger = logging.getLogger("taskcore")
    before = logger.handlers[:]
    yield logger
    logger.handlers[:] = before


async def test_extra_in_plain_logging(logger: logging.Logger) -> None:
    """I3: a formatter that writes JSON finds name, id, function, phase and scope in each record."""

    class AsJson(logging.Formatter):
        usual = frozenset(vars(logging.makeLogRecord({})))

        def format(self, record: logging.LogRecord) -> str:
            return json.dumps({k: v for k, v in vars(record).items() if k not in self.usual})

    logger.addHandler(handler := Lines(AsJson()))
    async with TaskScope(name="app") as scope:
        immediate, deferred = await fail_once_each(scope)
    assert handler.lines == [facts_of(immediate, None), facts_of(deferred, "answered")]


async def test_extra_in_structlog(logger: logging.Logger) -> None:
    """I3: structlog's formatter for records of others shows the same fields."""
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.stdlib.add_log_level, structlog.stdlib.ExtraAdder()],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.dict_tracebacks,
            structlog.processors.JSONRenderer(),
        ],
    )
    logger.addHandler(handler := Lines(formatter))
    async with TaskScope(name="app") as scope:
        immediate, deferred = await fail_once_each(scope)
    for line, facts in zip(
        handler.lines,
        (facts_of(immediate, None), facts_of(deferred, "answered")),
        strict=True,
    ):
        assert facts.items() <= line.items()
        assert line["level"] == "error"
        assert line["exception"][0]["exc_type"] == "ValueError"  # type: ignore[index]
