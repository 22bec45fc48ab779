"""What an adapter to a framework may use, and an end user need not.

An adapter makes a scope when its framework starts, a `Lifecycle` for each unit of
work, reaches phases as the framework passes them, and drains the scope before the
framework tears down what tasks use. `taskcore.asgi` is one; docs/adapters/ tells how to
write another.
"""

from __future__ import annotations

from taskcore._config import Limiter, Retry, RunIn, TaskOptions, When
from taskcore._drain import OnDrain
from taskcore._every import ConfiguredScope
from taskcore._observe import EventKind, Instrument, Observer, ScopeEvent
from taskcore._phase import Lifecycle, current_unit_var
from taskcore._scheduler import Configured, Scheduler
from taskcore._scope import ScopeOptions, TaskScope
from taskcore._statistics import LaneStatistics, PoolStatistics

__all__ = [
    "Configured",
    "ConfiguredScope",
    "EventKind",
    "Instrument",
    "LaneStatistics",
    "Lifecycle",
    "Limiter",
    "Observer",
    "OnDrain",
    "PoolStatistics",
    "Retry",
    "RunIn",
    "Scheduler",
    "ScopeEvent",
    "ScopeOptions",
    "TaskOptions",
    "TaskScope",
    "When",
    "current_unit",
]


def current_unit() -> Lifecycle | None:
    """The unit of work that the caller belongs to, also in the tasks of that unit."""
    return current_unit_var.get()
