"""Every exception that the adapter adds to those of `taskcore.errors`."""

from taskcore.errors import TaskcoreError

__all__ = [
    "FastAPITasksError",
    "FastAPITasksLifespanError",
    "FastAPITasksSetupError",
    "FastAPITasksUninitializedAppError",
]


class FastAPITasksError(TaskcoreError):
    """Base class of every error that fastapi-tasks raises."""


class FastAPITasksSetupError(FastAPITasksError, RuntimeError):
    """`add_tasks` was called twice, too late, or on something that is no FastAPI app."""


class FastAPITasksUninitializedAppError(FastAPITasksError, RuntimeError):
    """Tasks were asked for in an app without `add_tasks`, or outside of a request."""


class FastAPITasksLifespanError(FastAPITasksUninitializedAppError):
    """Tasks were asked for in an app whose lifespan never ran."""
