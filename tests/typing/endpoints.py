"""Read by type checkers, never run: FastAPI's side, and the ASGI layer under it.

See `schedule.py` for what a bare `type: ignore` stands for.
"""

from collections.abc import Iterator
from typing import Any, assert_type

from fastapi import APIRouter, FastAPI, WebSocket
from starlette.applications import Starlette

import taskcore
from fastapi_tasks import (
    RequestTasks,
    Task,
    TaskConfig,
    TaskErrorHandler,
    Tasks,
    add_tasks,
    current_tasks,
)
from taskcore import DrainReport, Phase, TaskScope
from taskcore.asgi import TasksMiddleware
from tests.typing.schedule import count, fetch

app = FastAPI()
router = APIRouter()


async def refund(task: Task[..., Any], error: Exception) -> None:
    """An error handler."""


def keep(report: DrainReport) -> None:
    """An `on_drain`."""


def set_up() -> None:
    """`add_tasks` takes what `TaskScope` takes."""
    assert_type(add_tasks(app), None)
    add_tasks(app, config=TaskConfig(on_error=refund), limit=100, backlog=10_000)
    add_tasks(app, grace_period=5.0, shield_timeout=None, lanes={"mail": 5}, on_drain=keep)
    add_tasks()  # type: ignore
    add_tasks(router)  # type: ignore
    add_tasks(app, 100)  # type: ignore
    add_tasks(app, limt=100)  # type: ignore
    add_tasks(app, limit="100")  # type: ignore
    add_tasks(app, shield=True)  # type: ignore
    add_tasks(app, on_drain=refund)  # type: ignore


@app.post("/orders")
async def create_order(order_id: int, tasks: Tasks) -> dict[str, int]:
    """`tasks: Tasks` is typed in an endpoint."""
    assert_type(tasks, RequestTasks)
    assert_type(tasks.after_route, Phase)
    assert_type(tasks.after_response, Phase)
    assert_type(tasks.scope, TaskScope)
    assert_type(await tasks.schedule(fetch, "u", retries=1), bytes)
    assert_type(
        await tasks.task(name="fetch", shield=True, on_error=refund).schedule(fetch, "u"), bytes
    )
    assert_type(tasks.after_route.schedule(count, "text").result(), int)
    assert_type(tasks.after_response.task(when="always").schedule(count, "text").result(), int)
    return {"order_id": order_id}


@router.get("/orders")
def orders(tasks: Tasks) -> None:
    """What does not fit the function is refused, at each of the three moments."""
    tasks.schedule(fetch)  # type: ignore
    tasks.schedule(fetch("u"))  # type: ignore
    tasks.after_route.schedule(count)  # type: ignore
    tasks.after_response.schedule(count, 7)  # type: ignore
    tasks.after_response.task(shield=True).schedule(count, "text", sep=",")  # type: ignore
    tasks.after_response.task(shielded=True)  # type: ignore
    tasks.task(on_error=keep)  # type: ignore
    tasks.after_request.schedule(count, "text")  # type: ignore


@app.websocket("/ws")
async def websocket(socket: WebSocket, tasks: Tasks) -> None:
    """A WebSocket's endpoint gets the same."""
    assert_type(tasks.after_response.schedule(count, "text").result(), int)


def session(tasks: Tasks) -> Iterator[int]:
    """So does a dependency."""
    yield tasks.schedule(count, "text").result()


def below_an_endpoint() -> None:
    """`current_tasks()` is the same without a parameter."""
    assert_type(current_tasks(), RequestTasks)
    assert_type(current_tasks().after_route.schedule(count, "text").result(), int)
    current_tasks(app)  # type: ignore


def one_type_under_two_names(
    task: Task[..., int], config: TaskConfig, handler: TaskErrorHandler
) -> None:
    """The adapter's names are those of the core."""
    assert_type(task, taskcore.Task[..., int])
    assert_type(config, taskcore.TaskConfig)
    assert_type(handler, taskcore.TaskErrorHandler)


def asgi() -> None:
    """The ASGI layer takes any application, and its options are those of `TaskScope`."""
    TasksMiddleware(TasksMiddleware(Starlette()), limit=100, disconnect_errors=(OSError,))
    app.add_middleware(TasksMiddleware, limit=100)
    TasksMiddleware()  # type: ignore
    TasksMiddleware(count)  # type: ignore
    TasksMiddleware(app, limt=100)  # type: ignore
    TasksMiddleware(app, disconnect_errors=OSError)  # type: ignore
