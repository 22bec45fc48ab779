"""OpenTelemetry, with the real SDK: spans of tasks, what is inside them, and metrics."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import tenacity
from opentelemetry import baggage, context, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from taskcore import Task, TaskEvent, TaskScope
from taskcore._observe import BUCKETS
from taskcore.otel import OpenTelemetry


class Telemetry:
    """An SDK of the test's own, and the observer that feeds it."""

    def __init__(self) -> None:
        self._spans = InMemorySpanExporter()
        self._reader = InMemoryMetricReader()
        self.provider = provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self._spans))
        self.meters = MeterProvider([self._reader], shutdown_on_exit=False)
        self.tracer = provider.get_tracer("test")
        self.observer = OpenTelemetry(tracer_provider=provider, meter_provider=self.meters)

    def spans(self) -> dict[str, ReadableSpan]:
        """The spans that have ended, by name, each name once."""
        spans = self._spans.get_finished_spans()
        by_name = {span.name: span for span in spans}
        assert len(by_name) == len(spans)
        return by_name

    def metrics(self) -> dict[str, Any]:
        """The metrics by name."""
        data = self._reader.get_metrics_data()
        assert data is not None
        (resource,) = data.resource_metrics
        (scope,) = resource.scope_metrics
        assert scope.scope.name == "taskcore"
        return {metric.name: metric for metric in scope.metrics}

    def points(self, name: str) -> list[tuple[dict[str, Any], float]]:
        """Attributes and value, or number of values, of a metric's points."""
        return [
            (dict(point.attributes), point.count if hasattr(point, "count") else point.value)
            for point in self.metrics()[name].data.data_points
        ]


@pytest.fixture
def telemetry(caplog: pytest.LogCaptureFixture) -> Iterator[Telemetry]:
    """Ended with the test; the observer has not failed, and keeps nothing of a task."""
    telemetry = Telemetry()
    yield telemetry
    logged = [record.getMessage() for record in caplog.get_records("call")]
    assert [line for line in logged if line.startswith("observer")] == []
    assert telemetry.observer._open == {}
    telemetry.meters.shutdown()


async def nothing() -> None:
    pass


async def fail(secret: str = "") -> None:
    raise LookupError("not found")


async def swallow() -> None:
    """Ignores one cancellation, and is stuck for good."""
    try:
        await asyncio.Event().wait()
    finally:
        await asyncio.sleep(60)


async def ignore(task: Task[..., Any], error: BaseException) -> None:
    pass


def ids(span: ReadableSpan) -> tuple[int, int]:
    """The trace and the id of a span."""
    at = span.get_span_context()
    assert at is not None
    return at.trace_id, at.span_id


def links(span: ReadableSpan) -> list[tuple[int, int]]:
    """What a span is linked to."""
    return [(link.context.trace_id, link.context.span_id) for link in span.links]


def is_inside(inner: ReadableSpan, outer: ReadableSpan) -> bool:
    """Whether a span is the child of another, in its trace."""
    parent = inner.parent
    return parent is not None and (parent.trace_id, parent.span_id) == ids(outer)


# -- spans -----------------------------------------------------------------------------------


async def test_span_of_a_task(telemetry: Telemetry) -> None:
    """A task has a span, the root of a trace of its own, linked to the request's."""
    with telemetry.tracer.start_as_current_span("request"):
        async with TaskScope(
            name="app", lanes={"mail": 5}, observers=[telemetry.observer]
        ) as scope:
            task = scope.task(name="save", lane="mail").schedule(nothing)
    spans = telemetry.spans()
    span = spans["save"]
    assert span.parent is None
    assert ids(span)[0] != ids(spans["request"])[0]
    assert links(span) == [ids(spans["request"])]
    assert span.kind is trace.SpanKind.INTERNAL
    assert span.status.status_code is trace.StatusCode.UNSET
    assert dict(span.attributes or {}) == {
        "taskcore.task.name": "save",
        "taskcore.task.id": task.id,
        "taskcore.task.outcome": "succeeded",
        "taskcore.scope.name": "app",
        "taskcore.lane.name": "mail",
        "code.function.name": f"{__name__}.nothing",
    }
    assert [event.name for event in span.events] == ["started"]


async def test_span_links_however_scheduled(telemetry: Telemetry) -> None:
    """I4: the link leads to the span that was current at `schedule()`, in every way of it."""
    async with TaskScope(limit=9, observers=[telemetry.observer]) as scope:
        unit = scope.lifecycle("end")
        targets = {
            "immediate": scope,
            "delayed": scope.task(delay=0),
            "deferred": unit.phase("end"),
            "timed": scope.task(timeout=5),
        }
        for way, target in targets.items():
            with telemetry.tracer.start_as_current_span(f"request of {way}"):
                target.task(name=way).schedule(nothing)
            with telemetry.tracer.start_as_current_span(f"request of {way} in a thread"):
                sent = target.task(name=f"{way} in a thread")
                await asyncio.to_thread(sent.schedule, nothing)
        with telemetry.tracer.start_as_current_span("at the end"):
            unit.close()
    spans = telemetry.spans()
    for way in targets:
        for name in (way, f"{way} in a thread"):
            assert links(spans[name]) == [ids(spans[f"request of {name}"])], name
    phase = (spans["deferred"].attributes or {})["taskcore.task.phase"]
    assert phase == "end"


async def test_span_without_a_request(telemetry: Telemetry) -> None:
    """A task that was scheduled where no span was current is linked to nothing."""
    async with TaskScope(observers=[telemetry.observer]) as scope:
        scope.schedule(nothing)
    assert links(telemetry.spans()["nothing"]) == []


async def test_span_of_a_builtin(telemetry: Telemetry) -> None:
    """A function of Python's own is called by its name."""
    numbers: list[int] = []
    async with TaskScope(observers=[telemetry.observer]) as scope:
        scope.task(name="of a module").schedule(max, 1, 2)
        scope.task(name="of a type").schedule(numbers.append, 1)
    names = {
        name: (span.attributes or {})["code.function.name"]
        for name, span in telemetry.spans().items()
    }
    assert names == {"of a module": "builtins.max", "of a type": "builtins.list.append"}


async def test_span_of_a_follow_up(telemetry: Telemetry) -> None:
    """A task that a task schedules is linked to the span of that task."""
    async with TaskScope(observers=[telemetry.observer]) as scope:

        async def first() -> None:
            scope.task(name="second").schedule(nothing)

        scope.task(name="first").schedule(first)
    spans = telemetry.spans()
    assert links(spans["second"]) == [ids(spans["first"])]
    assert spans["second"].parent is None


async def test_spans_inside_a_task(telemetry: Telemetry) -> None:
    """Spans of all that runs for a task are children of its span: on the loop and in threads."""

    def plain(name: str) -> None:
        with telemetry.tracer.start_as_current_span(name):
            pass

    async def coroutine(name: str) -> None:
        plain(name)
        await asyncio.create_task(asyncio.sleep(0))
        plain(f"{name}, later")

    with telemetry.tracer.start_as_current_span("request"), ThreadPoolExecutor(1) as executor:
        async with TaskScope(observers=[telemetry.observer]) as scope:
            scope.task(name="direct").schedule(coroutine, "in direct")
            scope.task(name="timed", timeout=5).schedule(coroutine, "in timed")
            scope.task(name="thread").schedule(plain, "in thread")
            scope.task(name="executor", run_in=executor).schedule(plain, "in executor")
            scope.task(name="partial").schedule(partial(coroutine, "in partial"))
        plain("after")
    spans = telemetry.spans()
    for way in ("direct", "timed", "thread", "executor", "partial"):
        assert is_inside(spans[f"in {way}"], spans[way])
    for way in ("direct", "timed", "partial"):
        assert is_inside(spans[f"in {way}, later"], spans[way])
    assert is_inside(spans["after"], spans["request"])
    name = f"{__name__}.test_spans_inside_a_task.<locals>.coroutine"
    assert (spans["partial"].attributes or {})["code.function.name"] == name


async def test_spans_around_the_function(telemetry: Telemetry) -> None:
    """Limiter, every attempt and the error handler are inside of the task's span as well."""
    numbers = iter(range(9))

    @asynccontextmanager
    async def limit() -> AsyncGenerator[None]:
        with telemetry.tracer.start_as_current_span("limiter"):
            yield

    def attempt() -> None:
        with telemetry.tracer.start_as_current_span(f"attempt {next(numbers)}"):
            pass
        raise LookupError

    async def handle(task: Task[..., Any], error: BaseException) -> None:
        with telemetry.tracer.start_as_current_span("handler"):
            pass

    async def retry(func: Callable[[], Awaitable[Any]]) -> None:
        with telemetry.tracer.start_as_current_span("retry"), pytest.raises(LookupError):
            await func()
        await func()

    async with TaskScope(observers=[telemetry.observer]) as scope:
        limited = scope.task(name="limited", limiter=limit())
        limited.schedule(nothing)
        failing = scope.task(name="failing", retry=retry, on_error=handle)
        failing.schedule(attempt)
    spans = telemetry.spans()
    assert is_inside(spans["limiter"], spans["limited"])
    assert is_inside(spans["attempt 0"], spans["retry"])
    for inner in ("retry", "attempt 1", "handler"):
        assert is_inside(spans[inner], spans["failing"])


async def test_baggage_goes_on(telemetry: Telemetry) -> None:
    """What else the request's context has, such as baggage, is seen by task and processors."""
    seen: list[object] = []

    class Look(SpanProcessor):
        def on_start(self, span: trace.Span, parent_context: context.Context | None = None) -> None:
            seen.append(baggage.get_baggage("customer", parent_context))

    async def look() -> None:
        seen.append(baggage.get_baggage("customer"))

    telemetry.provider.add_span_processor(Look())
    token = context.attach(baggage.set_baggage("customer", "ada"))
    async with TaskScope(observers=[telemetry.observer]) as scope:
        scope.schedule(look)
    context.detach(token)
    assert seen == ["ada", "ada"]


async def test_span_of_a_failure(telemetry: Telemetry) -> None:
    """I3: a failure is an error with its exception, and no argument is in the span."""
    async with TaskScope(observers=[telemetry.observer]) as scope:
        scope.task(on_error=ignore).schedule(fail, "a secret")
        scope.task(on_error=ignore, timeout=0, name="slow").schedule(asyncio.sleep, 1234567)
    spans = telemetry.spans()
    span = spans["fail"]
    assert span.status.status_code is trace.StatusCode.ERROR
    assert span.status.description == "not found"
    assert (span.attributes or {})["taskcore.task.outcome"] == "failed"
    assert (span.attributes or {})["error.type"] == "LookupError"
    _, exception = span.events
    assert (exception.attributes or {})["exception.type"] == "LookupError"
    assert "raise LookupError" in str((exception.attributes or {})["exception.stacktrace"])
    assert (spans["slow"].attributes or {})["error.type"] == "taskcore.errors.TaskTimeoutError"
    shown = json.dumps([json.loads(span.to_json()) for span in spans.values()])
    assert "a secret" not in shown
    assert "1234567" not in shown


async def test_span_of_a_retry(telemetry: Telemetry) -> None:
    """A further attempt is an event of the span; an error that it mended is none."""
    outcomes = iter([LookupError(), LookupError(), None])

    async def attempt() -> None:
        error = next(outcomes)
        if error is not None:
            raise error

    async with TaskScope(observers=[telemetry.observer]) as scope:
        scope.task(name="save", retry=tenacity.AsyncRetrying()).schedule(attempt)
    span = telemetry.spans()["save"]
    assert [(event.name, dict(event.attributes or {})) for event in span.events] == [
        ("started", {}),
        ("retried", {"taskcore.task.attempt": 2}),
        ("retried", {"taskcore.task.attempt": 3}),
    ]
    assert span.status.status_code is trace.StatusCode.UNSET
    assert telemetry.points("taskcore.task.retries") == [({"taskcore.task.name": "save"}, 2)]


@pytest.mark.virtual
async def test_span_of_what_was_cancelled(
    telemetry: Telemetry, caplog: pytest.LogCaptureFixture
) -> None:
    """Being cancelled is no error, and being abandoned is one."""
    async with TaskScope(grace_period=0, shield_timeout=0, observers=[telemetry.observer]) as scope:
        scope.task(name="cancelled").schedule(asyncio.Event().wait)
        scope.task(name="abandoned").schedule(swallow)
        await asyncio.sleep(0)
        await scope.drain()
    cancelled, abandoned = (telemetry.spans()[name] for name in ("cancelled", "abandoned"))
    assert cancelled.status.status_code is trace.StatusCode.UNSET
    assert (cancelled.attributes or {})["taskcore.task.outcome"] == "cancelled"
    assert "error.type" not in (cancelled.attributes or {})
    assert abandoned.status.status_code is trace.StatusCode.ERROR
    assert (abandoned.attributes or {})["taskcore.task.outcome"] == "abandoned"
    assert (abandoned.attributes or {})["error.type"] == "taskcore.errors.TaskAbandonedError"
    caplog.clear()


async def test_span_ends_whatever_the_error_does(
    telemetry: Telemetry, caplog: pytest.LogCaptureFixture
) -> None:
    """A span ends although the exception cannot be written down; that is logged."""

    class UnspeakableError(Exception):
        def __str__(self) -> str:
            raise ValueError("no words")

    async def fail() -> None:
        raise UnspeakableError

    async with TaskScope(observers=[telemetry.observer]) as scope:
        scope.task(name="save", on_error=ignore).schedule(fail)
    assert telemetry.spans()["save"].end_time is not None
    assert "failed on 'finished' of task 'save'" in caplog.text
    caplog.clear()


async def test_no_span_for_what_never_went_to_work(telemetry: Telemetry) -> None:
    """A task that is skipped, or cancelled before its slot came, has no span, and is counted."""

    def cancel(event: TaskEvent) -> None:
        if event.kind == "scheduled" and event.task.name == "refused":
            event.task.cancel()

    async with TaskScope(limit=1, observers=[cancel, telemetry.observer]) as scope:
        scope.schedule(nothing)
        scope.task(name="waiting").schedule(nothing).cancel()
        scope.task(name="refused").schedule(nothing)
        async with scope.lifecycle("end") as unit:
            unit.phase("end").task(when="failure", name="skipped").schedule(nothing)
    assert set(telemetry.spans()) == {"nothing"}
    outcomes = {
        (attributes["taskcore.task.name"], attributes["taskcore.task.outcome"]): count
        for attributes, count in telemetry.points("taskcore.task.finished")
    }
    assert outcomes == {
        ("nothing", "succeeded"): 1,
        ("waiting", "cancelled"): 1,
        ("refused", "cancelled"): 1,
        ("skipped", "skipped"): 1,
    }
    durations = telemetry.points("taskcore.task.duration")
    assert [attributes["taskcore.task.name"] for attributes, _ in durations] == ["nothing"]


# -- metrics ---------------------------------------------------------------------------------


@pytest.mark.virtual
async def test_metrics(telemetry: Telemetry) -> None:
    """Durations are in seconds, in buckets for tasks, with outcome, scope, lane and error."""
    async with TaskScope(name="app", lanes={"mail": 5}, observers=[telemetry.observer]) as scope:
        for seconds in (1, 3):
            scope.task(name="nap").schedule(asyncio.sleep, seconds)
        scope.task(name="fail", lane="mail", on_error=ignore).schedule(fail)
    duration = telemetry.metrics()["taskcore.task.duration"]
    assert duration.unit == "s"
    by_name = {point.attributes["taskcore.task.name"]: point for point in duration.data.data_points}
    assert (by_name["nap"].count, by_name["nap"].sum) == (2, 4)
    assert by_name["nap"].explicit_bounds == BUCKETS
    assert dict(by_name["nap"].attributes) == {
        "taskcore.task.name": "nap",
        "taskcore.scope.name": "app",
        "taskcore.task.outcome": "succeeded",
    }
    assert dict(by_name["fail"].attributes) == {
        "taskcore.task.name": "fail",
        "taskcore.scope.name": "app",
        "taskcore.lane.name": "mail",
        "taskcore.task.outcome": "failed",
        "error.type": "LookupError",
    }


async def test_metrics_of_scopes_without_a_name(telemetry: Telemetry) -> None:
    """Scopes that were given no name share their metrics, so these do not grow for ever."""
    for _ in range(3):
        async with TaskScope(observers=[telemetry.observer]) as scope:
            scope.schedule(nothing)
    expected = {"taskcore.task.name": "nothing", "taskcore.task.outcome": "succeeded"}
    assert telemetry.points("taskcore.task.finished") == [(expected, 3)]
    assert telemetry.points("taskcore.task.duration") == [(expected, 3)]


# -- without an SDK, without the extra ---------------------------------------------------------


async def test_without_an_sdk() -> None:
    """Without providers the global ones are used, and before these are set up nothing happens."""
    async with TaskScope(observers=[OpenTelemetry()]) as scope:
        assert await scope.schedule(max, 1, 2) == 2


def test_without_the_extra() -> None:
    """Without the API, the import says what to install; `taskcore` itself never needs it."""
    code = "import sys; sys.modules['opentelemetry'] = None; import taskcore, taskcore.otel"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 1
    last = run.stderr.splitlines()[-1]
    assert last.startswith("ImportError: taskcore.otel needs")
    assert last.endswith('write: pip install "taskcore[otel]"')
