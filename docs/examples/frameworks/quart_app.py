"""Orders in Quart.

In docs/examples:

    hypercorn frameworks.quart_app:app
    curl -X POST http://127.0.0.1:8000/orders/7
"""

from collections.abc import AsyncGenerator

from quart import Quart, abort
from werkzeug.exceptions import HTTPException

from frameworks.orders import GRACE_PERIOD, Orders, open_orders
from taskcore.asgi import TasksMiddleware, current_tasks
from taskcore.spi import current_unit


class App(Quart):
    """An app, and what its lifespan opens."""

    orders: Orders


app = App(__name__)
app.asgi_app = TasksMiddleware(  # type: ignore[assignment]  # Quart's way to add a middleware
    app.asgi_app, grace_period=GRACE_PERIOD
)


@app.errorhandler(HTTPException)
async def note_failure(error: HTTPException) -> HTTPException:
    """Note `abort()`, and any other exception, which is a 500 by now; answer as Quart does."""
    if unit := current_unit():
        unit.fail()
    return error


@app.while_serving
async def lifespan() -> AsyncGenerator[None]:
    """Open what tasks use; every task has ended before it is closed again."""
    with open_orders() as app.orders:
        yield


@app.post("/orders/<order>")
async def create_order(order: str) -> tuple[str, int]:
    """Take an order."""
    tasks = current_tasks()
    tasks.schedule(app.orders.track, order)
    tasks.after_route.task(shield=True).schedule(app.orders.charge, order)
    tasks.after_response.schedule(app.orders.mail, order)
    tasks.after_response.task(when="failure").schedule(app.orders.alert, order)
    if not app.orders.accepts(order):
        abort(409, f"there is no order {order}")
    return order, 201
