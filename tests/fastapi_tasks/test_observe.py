"""What a FastAPI app shows of its tasks: spans linked to its requests, metrics, statistics."""

import threading

import pytest
from fastapi import FastAPI
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry, generate_latest
from starlette.types import ASGIApp, Receive, Scope, Send

from fastapi_tasks import Tasks, add_tasks
from taskcore import ScopeState, current_scope
from taskcore.otel import OpenTelemetry
from taskcore.prometheus import Prometheus
from tests.fastapi_tasks.server import Server
from tests.helpers import Journal


class RequestSpans:
    """A middleware that has a span current during each request, as instruments of servers do."""

    def __init__(self, app: ASGIApp, tracer: trace.Tracer) -> None:
        self.app = app
        self.tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        with self.tracer.start_as_current_span(f"GET {scope['path']}"):
            await self.app(scope, receive, send)


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    """Where the spans of the test end up."""
    return InMemorySpanExporter()


@pytest.fixture
def provider(exporter: InMemorySpanExporter) -> TracerProvider:
    """An SDK of the test's own."""
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return provider


def place(span: ReadableSpan) -> tuple[int, int]:
    """The trace and the id of a span."""
    at = span.get_span_context()
    assert at is not None
    return at.trace_id, at.span_id


async def test_spans_are_linked_to_the_request(
    exporter: InMemorySpanExporter, provider: TracerProvider, journal: Journal
) -> None:
    """I4, T3, T4: a task of any moment has a trace of its own, linked to the request's span."""
    tracer = provider.get_tracer("test")
    meters = MeterProvider(shutdown_on_exit=False)
    app = FastAPI()
    add_tasks(app, observers=[OpenTelemetry(tracer_provider=provider, meter_provider=meters)])
    app.add_middleware(RequestSpans, tracer=tracer)

    async def coroutine(name: str) -> None:
        with tracer.start_as_current_span(f"inside {name}"):
            pass

    def plain(name: str) -> None:
        with tracer.start_as_current_span(f"inside {name}"):
            pass

    def schedule(tasks: Tasks, way: str) -> None:
        moments = {"now": tasks, "route": tasks.after_route, "response": tasks.after_response}
        for moment, target in moments.items():
            for func in (coroutine, plain):
                name = f"{way} {moment} {func.__name__}"
                target.task(name=name).schedule(func, name)

    @app.get("/async")
    async def endpoint(tasks: Tasks) -> None:
        schedule(tasks, "async")

    @app.get("/def")
    def def_endpoint(tasks: Tasks) -> None:
        schedule(tasks, "def")

    async with Server(app, journal) as server:
        await server.get("/async")
        await server.get("/def")
    spans = {span.name: span for span in exporter.get_finished_spans()}
    assert len(spans) == 2 + 2 * 6 * 2
    for way in ("async", "def"):
        request = spans[f"GET /{way}"]
        tasks = [span for name, span in spans.items() if name.startswith(way)]
        assert len(tasks) == 6
        for span in tasks:
            assert span.parent is None
            links = [(link.context.trace_id, link.context.span_id) for link in span.links]
            assert links == [place(request)]
            inner = spans[f"inside {span.name}"]
            assert inner.parent is not None
            assert (inner.parent.trace_id, inner.parent.span_id) == place(span)


async def test_metrics_of_an_app(journal: Journal) -> None:
    """The scope of an app is called by its title, and is gone from the gauges when it ends."""
    registry = CollectorRegistry()
    app = FastAPI(title="shop")
    add_tasks(app, observers=[Prometheus(registry)])

    async def index() -> None: ...

    @app.get("/")
    async def endpoint(tasks: Tasks) -> None:
        tasks.after_response.task(name="index").schedule(index)

    async with Server(app, journal) as server:
        await server.get("/")
        await server.get("/")
        assert 'taskcore_scope_tasks{scope="shop",state="running"} 0.0' in shown(registry)
    total = 'taskcore_tasks_total{lane="",outcome="succeeded",scope="shop",task="index"} 2.0'
    assert total in shown(registry)
    assert not any(line.startswith("taskcore_scope_tasks{") for line in shown(registry))


def shown(registry: CollectorRegistry) -> list[str]:
    """The lines of a scrape."""
    return generate_latest(registry).decode().splitlines()


@pytest.mark.parametrize("kind", ["async", "def"])
async def test_statistics_in_an_endpoint(kind: str, journal: Journal) -> None:
    """I8: an endpoint of either kind can ask for the statistics of the app's scope."""
    app = FastAPI(title="shop")
    add_tasks(app, limit=5)
    release = threading.Event()

    @app.get("/async")
    async def endpoint(tasks: Tasks) -> dict[str, int]:
        return statistics(tasks)

    @app.get("/def")
    def def_endpoint(tasks: Tasks) -> dict[str, int]:
        return statistics(tasks)

    def statistics(tasks: Tasks) -> dict[str, int]:
        tasks.after_response.schedule(release.wait)
        now = current_scope().statistics()
        assert now.name == "shop"
        assert now.state is ScopeState.OPEN
        return {"unfinished": now.deferred + now.scheduled, "limit": now.lanes[0].limit}

    async with Server(app, journal) as server:
        connection = await server.get(f"/{kind}")
        release.set()
    assert connection.json() == {"unfinished": 1, "limit": 5}
