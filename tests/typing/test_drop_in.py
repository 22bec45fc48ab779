"""Code that is annotated with the names of fastapi-tasks 0.1.0 on PyPI type-checks on ours."""

from typing import Any, assert_type

from fastapi_tasks import TaskErrorHandler, Tasks
from fastapi_tasks.dependencies import Tasks as SameTasks
from fastapi_tasks.tasks import Task, TaskConfig, TasksBatch, TasksScheduler


async def send_mail(address: str, *, subject: str) -> bool:
    """A coroutine function."""
    return bool(address + subject)


async def on_error(task: Task[..., Any], error: Exception) -> None:
    """An error handler."""
    print(task.config.name, task.func, task.args, task.kwargs, task.started.is_set())
    assert_type(task.config, TaskConfig)


handler: TaskErrorHandler = on_error


def helper(tasks: TasksScheduler, batch: TasksBatch) -> None:
    """What an endpoint gives its `tasks` to."""
    task = batch.task(name="mail", shield=True, on_error=handler).schedule(
        send_mail, "ada@example.org", subject="Welcome"
    )
    assert_type(task.config.shielded, bool)
    assert_type(task.args, tuple[Any, ...])
    tasks.schedule(send_mail, "ada@example.org")  # type: ignore


async def endpoint(tasks: Tasks, same: SameTasks) -> None:
    """Both ways to import `Tasks`."""
    helper(tasks, tasks.after_route)
    helper(same, same.after_response)
