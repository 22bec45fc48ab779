"""Background tasks for FastAPI that start at the moment you choose, and survive a deploy."""

from fastapi_tasks._inject import Tasks, current_tasks
from fastapi_tasks._setup import add_tasks
from taskcore import Task, TaskConfig, TaskErrorHandler
from taskcore.asgi import RequestTasks

__all__ = [
    "RequestTasks",
    "Task",
    "TaskConfig",
    "TaskErrorHandler",
    "Tasks",
    "add_tasks",
    "current_tasks",
]
