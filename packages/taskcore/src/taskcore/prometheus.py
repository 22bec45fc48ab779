"""Prometheus for a scope: how tasks end, how long they run, and what the scope has.

`TaskScope(observers=[Prometheus()])`, or `add_tasks(app, observers=[Prometheus()])`.
Needs `pip install "taskcore[prometheus]"`.

Counters and histogram follow the events. Gauges are taken from `statistics()` of the
scopes that are open when the registry is scraped, in whatever thread that is.

Invariant: each registry has one set of metrics, whoever asks for it, so any number of
scopes and of `Prometheus` objects share it; scopes of the same name are added up.

Labels: `task` is the task's `name` option, or the name of its function, so keep what is
different for each task (ids of orders) out of names. `scope` is the scope's name, and
empty for scopes that were not given one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from threading import Lock
from weakref import WeakKeyDictionary, WeakSet

from taskcore._observe import BUCKETS, ScopeEvent, TaskEvent
from taskcore._state import ScopeState
from taskcore.spi import Instrument, TaskScope

try:
    from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram
    from prometheus_client.core import GaugeMetricFamily
except ImportError as _missing:
    raise ImportError(
        "taskcore.prometheus needs the client of Prometheus, which is not installed; "
        'write: pip install "taskcore[prometheus]"'
    ) from _missing

__all__ = ["Prometheus"]


class Prometheus(Instrument):
    """Metrics of tasks and scopes.

    - `taskcore_tasks_total`: tasks that ended, by `scope`, `task`, `lane` and `outcome`;
    - `taskcore_task_duration_seconds`: how long functions ran, retries included, by `scope`,
      `task` and `lane`;
    - `taskcore_task_retries_total`: further attempts, by `scope`, `task` and `lane`;
    - `taskcore_scope_tasks`: tasks that have not ended, by `scope` and `state`;
    - `taskcore_lane_tasks`, `taskcore_lane_limit`: tasks that run in a lane, wait or are
      deferred, and its limit, by `scope` and `lane`; the scope's own limit has no lane;
    - `taskcore_pool_calls`, `taskcore_pool_size`: functions that run or are queued for
      threads and processes, and how many of these there may be, by `scope` and `pool`.

    Args:
        registry: Where the metrics are registered; by default the global one.
    """

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        """Use the metrics of `registry`, or register them if it has none of ours."""
        with _lock:
            metrics = _by_registry.get(registry)
            if metrics is None:
                metrics = _by_registry[registry] = _Metrics(registry)
        self._metrics = metrics

    def __call__(self, event: TaskEvent) -> None:
        """Count what happened to a task."""
        task = event.task
        labels = (_label(event.scope), task.name, task.config.lane or "")
        match event.kind:
            case "scheduled" | "started":
                pass
            case "retried":
                self._metrics.retries.labels(*labels).inc()
            case _:
                self._metrics.tasks.labels(*labels, task.state.value).inc()
                if event.duration is not None:
                    self._metrics.duration.labels(*labels).observe(event.duration)

    def on_scope(self, event: ScopeEvent) -> None:
        """Take the figures of a scope while it lives.

        Args:
            event: The scope, and the state that it came into.
        """
        if event.state is ScopeState.OPEN:
            self._metrics.scopes.add(event.scope)
        elif event.state is ScopeState.CLOSED:
            self._metrics.scopes.remove(event.scope)


class _Metrics:
    """The metrics of one registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        labels = ("scope", "task", "lane")
        self.tasks = Counter(
            "taskcore_tasks", "Tasks that ended", (*labels, "outcome"), registry=registry
        )
        self.duration = Histogram(
            "taskcore_task_duration_seconds",
            "How long the function of a task ran, retries included",
            labels,
            buckets=BUCKETS,
            registry=registry,
        )
        self.retries = Counter(
            "taskcore_task_retries", "Further attempts of tasks", labels, registry=registry
        )
        self.scopes = _Scopes()
        registry.register(self.scopes)


class _Scopes:
    """The collector of gauges: those of the scopes that are open when it is asked."""

    def __init__(self) -> None:
        self._open: WeakSet[TaskScope] = WeakSet()
        self._changing = Lock()  # a scrape may come in any thread

    def add(self, scope: TaskScope) -> None:
        with self._changing:
            self._open.add(scope)

    def remove(self, scope: TaskScope) -> None:
        with self._changing:
            self._open.discard(scope)

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """The gauges without figures, for the registry to know their names."""
        return [GaugeMetricFamily(name, text, labels=names) for name, text, names in _GAUGES]

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """The gauges, with figures taken now."""
        with self._changing:
            scopes = list(self._open)
        totals: dict[tuple[str, tuple[str, ...]], int] = defaultdict(int)
        for scope in scopes:
            for name, labels, value in _figures(scope):
                totals[name, (_label(scope), *labels)] += value
        gauges = {gauge.name: gauge for gauge in self.describe()}
        for (name, labels), value in totals.items():
            gauges[name].add_metric(labels, value)
        return gauges.values()


_GAUGES = (
    ("taskcore_scope_tasks", "Tasks that have not ended", ("scope", "state")),
    ("taskcore_lane_tasks", "Tasks that count against a limit", ("scope", "lane", "state")),
    ("taskcore_lane_limit", "Most tasks of a lane that run at once", ("scope", "lane")),
    ("taskcore_pool_calls", "Functions given to workers", ("scope", "pool", "state")),
    ("taskcore_pool_size", "Most workers at once", ("scope", "pool")),
)


def _figures(scope: TaskScope) -> Iterable[tuple[str, tuple[str, ...], int]]:
    """Name, labels after the scope, and value of each sample of one scope."""
    now = scope.statistics()
    yield "taskcore_scope_tasks", ("deferred",), now.deferred
    yield "taskcore_scope_tasks", ("waiting",), now.waiting
    yield "taskcore_scope_tasks", ("scheduled",), now.scheduled
    yield "taskcore_scope_tasks", ("running",), now.running
    for lane in now.lanes:
        name = lane.name or ""
        yield "taskcore_lane_tasks", (name, "running"), lane.running
        yield "taskcore_lane_tasks", (name, "waiting"), lane.waiting
        yield "taskcore_lane_tasks", (name, "deferred"), lane.deferred
        yield "taskcore_lane_limit", (name,), lane.limit
    for pool_name, pool in (("threads", now.threads), ("processes", now.processes)):
        yield "taskcore_pool_calls", (pool_name, "running"), pool.busy
        yield "taskcore_pool_calls", (pool_name, "queued"), pool.queued
        yield "taskcore_pool_size", (pool_name,), pool.size


def _label(scope: TaskScope) -> str:
    return scope.name if scope._named else ""


_by_registry: WeakKeyDictionary[CollectorRegistry, _Metrics] = WeakKeyDictionary()
_lock = Lock()
