"""Orders in Starlette.

In docs/examples:

    uvicorn frameworks.starlette_app:app
    curl -X POST http://127.0.0.1:8000/orders/7
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TypedDict

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.websockets import WebSocketDisconnect

from frameworks.orders import GRACE_PERIOD, Orders, open_orders
from taskcore.asgi import TasksMiddleware, current_tasks
from taskcore.spi import current_unit


class State(TypedDict):
    """What the lifespan gives to each request, as `request.state`."""

    orders: Orders


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncGenerator[State]:
    """Open what tasks use; every task has ended before it is closed again."""
    with open_orders() as orders:
        yield {"orders": orders}


async def create_order(request: Request) -> PlainTextResponse:
    """Take an order."""
    order: str = request.path_params["order"]
    orders: Orders = request.state.orders
    tasks = current_tasks()
    tasks.schedule(orders.track, order)
    tasks.after_route.task(shield=True).schedule(orders.charge, order)
    tasks.after_response.schedule(orders.mail, order)
    tasks.after_response.task(when="failure").schedule(orders.alert, order)
    if not orders.accepts(order):
        raise HTTPException(409, f"there is no order {order}")
    return PlainTextResponse(order, 201)


async def refuse(request: Request, error: Exception) -> PlainTextResponse:
    """Answer an exception, and note it: it does not leave Starlette."""
    assert isinstance(error, HTTPException)
    if unit := current_unit():
        unit.fail()
    return PlainTextResponse(error.detail, error.status_code)


app = TasksMiddleware(
    Starlette(
        routes=[Route("/orders/{order}", create_order, methods=["POST"])],
        lifespan=lifespan,
        exception_handlers={HTTPException: refuse},
    ),
    disconnect_errors=(ClientDisconnect, WebSocketDisconnect),
    grace_period=GRACE_PERIOD,
)
