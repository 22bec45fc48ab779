"""Orders in Litestar.

In docs/examples:

    granian --interface asgi frameworks.litestar_app:app
    curl -X POST http://127.0.0.1:8000/orders/7
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from litestar import Litestar, MediaType, post
from litestar.datastructures import State
from litestar.di import NamedDependency, Provide
from litestar.exceptions import ClientException, WebSocketDisconnect
from litestar.params import FromPath
from litestar.types import Scope

from frameworks.orders import GRACE_PERIOD, Orders, open_orders
from taskcore.asgi import RequestTasks, TasksMiddleware, current_tasks
from taskcore.spi import current_unit


@asynccontextmanager
async def lifespan(app: Litestar) -> AsyncGenerator[None]:
    """Open what tasks use; every task has ended before it is closed again."""
    with open_orders() as orders:
        app.state.orders = orders
        yield


@post("/orders/{order:str}", media_type=MediaType.TEXT)
async def create_order(
    order: FromPath[str], state: State, tasks: NamedDependency[RequestTasks]
) -> str:
    """Take an order."""
    orders: Orders = state.orders
    tasks.schedule(orders.track, order)
    tasks.after_route.task(shield=True).schedule(orders.charge, order)
    tasks.after_response.schedule(orders.mail, order)
    tasks.after_response.task(when="failure").schedule(orders.alert, order)
    if not orders.accepts(order):
        raise ClientException(f"there is no order {order}", status_code=409)
    return order


async def note_failure(error: Exception, scope: Scope) -> None:
    """Note an exception that Litestar turns into a response."""
    if (unit := current_unit()) and not isinstance(error, WebSocketDisconnect):
        unit.fail()


app = TasksMiddleware(
    Litestar(
        route_handlers=[create_order],
        lifespan=[lifespan],
        dependencies={"tasks": Provide(current_tasks, sync_to_thread=False)},
        after_exception=[note_failure],
    ),
    disconnect_errors=(WebSocketDisconnect,),
    grace_period=GRACE_PERIOD,
)
