"""Structured background work for asyncio: scopes, phases, shields, drains."""

from taskcore._config import TaskConfig, TaskErrorHandler
from taskcore._drain import DrainEntry, DrainReport
from taskcore._every import Interval, Series
from taskcore._observe import TaskEvent
from taskcore._phase import Lifecycle, Phase
from taskcore._run import check_cancelled, current_task
from taskcore._scope import TaskScope, current_scope
from taskcore._state import ScopeState, TaskState
from taskcore._statistics import ScopeStatistics
from taskcore._task import Task

__all__ = [
    "DrainEntry",
    "DrainReport",
    "Interval",
    "Lifecycle",
    "Phase",
    "ScopeState",
    "ScopeStatistics",
    "Series",
    "Task",
    "TaskConfig",
    "TaskErrorHandler",
    "TaskEvent",
    "TaskScope",
    "TaskState",
    "check_cancelled",
    "current_scope",
    "current_task",
]
