"""OpenTelemetry for a scope: a span for each task, and metrics of how tasks end.

`TaskScope(observers=[OpenTelemetry()])`, or `add_tasks(app, observers=[OpenTelemetry()])`.
Needs `pip install "taskcore[otel]"`, which brings the API alone: without an SDK, or
before one is set up, all of this does nothing.

A task is the root of a trace of its own, since it may outlive the request by far. Its
span is linked to the span that was current at `schedule()`, and current in all that runs
for the task: function, limiter, retry and error handler, in threads as well, though not in
worker processes. It begins when the task has its slot, so what it waits for a limiter or a
free thread is in it; its event `started` says when the function began.

Invariant: names, ids and outcomes are told, and never a task's arguments. Of a failure the
exception is recorded, as in the log.

Source: there are no semantic conventions for tasks in one process, so what is specific
has the prefix `taskcore.`; for errors and names of functions the general ones are followed
(https://opentelemetry.io/docs/specs/semconv/general/recording-errors/).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from taskcore._call import name_of
from taskcore._observe import BUCKETS, TaskEvent
from taskcore._state import TaskState
from taskcore._task import AnyTask
from taskcore.errors import TaskAbandonedError
from taskcore.spi import Instrument, TaskScope

try:
    from opentelemetry import context, metrics, trace
except ImportError as _missing:
    raise ImportError(
        "taskcore.otel needs the API of OpenTelemetry, which is not installed; "
        'write: pip install "taskcore[otel]"'
    ) from _missing

__all__ = ["OpenTelemetry"]


@dataclass(slots=True)
class _Open:
    """What is kept of a task until it ends."""

    scope: TaskScope
    origin: trace.SpanContext
    span: trace.Span = trace.INVALID_SPAN


class OpenTelemetry(Instrument):
    """Spans and metrics of tasks. One can be shared by many scopes.

    Metrics: `taskcore.task.duration`, a histogram in seconds of how long functions ran,
    retries included; `taskcore.task.finished`, a counter of tasks that came to their end, by
    outcome, also of those that never began; `taskcore.task.retries`, a counter of further
    attempts. Their attributes are the task's name, scope and lane, and
    `taskcore.task.outcome` and `error.type` where there are such. A scope without a name of
    its own has no attribute, so that short-lived scopes do not make ever more of them.

    Args:
        tracer_provider: Where spans go; by default the global one.
        meter_provider: Where metrics go; by default the global one.
    """

    def __init__(
        self,
        *,
        tracer_provider: trace.TracerProvider | None = None,
        meter_provider: metrics.MeterProvider | None = None,
    ) -> None:
        """Make the instruments; nothing is patched, and nothing is exported by itself."""
        self._tracer = trace.get_tracer("taskcore", tracer_provider=tracer_provider)
        meter = metrics.get_meter("taskcore", meter_provider=meter_provider)
        self._duration = meter.create_histogram(
            "taskcore.task.duration",
            unit="s",
            description="How long the function of a task ran, retries included",
            explicit_bucket_boundaries_advisory=BUCKETS,
        )
        self._finished = meter.create_counter(
            "taskcore.task.finished", unit="{task}", description="Tasks that came to their end"
        )
        self._retries = meter.create_counter(
            "taskcore.task.retries", unit="{retry}", description="Further attempts of tasks"
        )
        self._open: dict[AnyTask, _Open] = {}

    def __call__(self, event: TaskEvent) -> None:
        """Follow a task from `schedule` to its end."""
        task = event.task
        match event.kind:
            case "scheduled":
                origin = trace.get_current_span().get_span_context()
                self._open[task] = _Open(event.scope, origin)
            case "started":
                self._open[task].span.add_event("started")
            case "retried":
                attempt = {"taskcore.task.attempt": event.attempt or 0}
                self._open[task].span.add_event("retried", attempt)
                self._retries.add(1, _labels(task, event.scope))
            case _:
                self._end(event, self._open.pop(task).span)

    def on_enter(self, task: AnyTask) -> None:
        """Begin the span, and make it the current one in the task's context.

        Args:
            task: The task that goes to work.
        """
        opened = self._open[task]
        # A new trace; what else the context has, such as baggage, goes on into the task.
        outside = trace.set_span_in_context(trace.INVALID_SPAN)
        opened.span = self._tracer.start_span(
            task.name,
            outside,
            attributes={**_labels(task, opened.scope), **_details(task, opened.scope)},
            links=[trace.Link(opened.origin)] if opened.origin.is_valid else [],
        )
        context.attach(trace.set_span_in_context(opened.span))

    def _end(self, event: TaskEvent, span: trace.Span) -> None:
        outcome = {"taskcore.task.outcome": event.task.state.value}
        error = _error(event.task)
        if error is not None:
            outcome["error.type"] = _qualified(type(error))
        try:
            labels = _labels(event.task, event.scope) | outcome
            self._finished.add(1, labels)
            if event.duration is not None:
                self._duration.record(event.duration, labels)
            span.set_attributes(outcome)
            if error is not None:
                span.record_exception(error)
                span.set_status(trace.StatusCode.ERROR, str(error))
        finally:
            span.end()


def _error(task: AnyTask) -> BaseException | None:
    if task.state is TaskState.FAILED:
        return task.exception()
    if task.state is TaskState.ABANDONED:
        return TaskAbandonedError("it was cancelled and did not stop")
    return None


def _labels(task: AnyTask, scope: TaskScope) -> dict[str, str]:
    """Attributes of few values, for metrics and spans."""
    labels = {"taskcore.task.name": task.name}
    if scope._named:
        labels["taskcore.scope.name"] = scope.name
    if task.config.lane is not None:
        labels["taskcore.lane.name"] = task.config.lane
    return labels


def _details(task: AnyTask, scope: TaskScope) -> dict[str, str | int]:
    """Attributes of many values, for spans alone."""
    func = task.func
    while isinstance(func, partial):
        func = func.func
    module = getattr(func, "__module__", None) or "builtins"  # methods of builtin types have none
    details: dict[str, str | int] = {
        "taskcore.scope.name": scope.name,
        "taskcore.task.id": task.id,
        "code.function.name": f"{module}.{name_of(func)}",
    }
    if task.phase is not None:
        details["taskcore.task.phase"] = task.phase
    return details


def _qualified(kind: type) -> str:
    module = kind.__module__
    return kind.__qualname__ if module == "builtins" else f"{module}.{kind.__qualname__}"
