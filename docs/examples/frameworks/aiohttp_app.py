"""Orders in aiohttp, which is no ASGI framework: its glue makes the units of work itself.

In docs/examples:

    python -m aiohttp.web frameworks.aiohttp_app:make_app
    curl -X POST http://127.0.0.1:8080/orders/7
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress

from aiohttp import web

from frameworks.orders import GRACE_PERIOD, Orders, open_orders
from taskcore import Lifecycle, TaskScope

SCOPE = web.AppKey("scope", TaskScope)
UNIT = web.RequestKey("unit", Lifecycle)
ORDERS = web.AppKey("orders", Orders)

# -- the glue -------------------------------------------------------------------------------


def add_tasks(app: web.Application) -> None:
    """Give an application tasks. Call it after its cleanup contexts have been added."""
    app.cleanup_ctx.append(task_scope)  # the last one that is entered is the first one left
    app.middlewares.insert(0, unit_of_work)  # the outermost
    app.on_response_prepare.append(before_response)


async def task_scope(app: web.Application) -> AsyncGenerator[None]:
    """Keep a scope open while the application runs."""
    async with TaskScope(name="orders", grace_period=GRACE_PERIOD) as scope:
        app[SCOPE] = scope
        yield
        await scope.drain_uncancelled()


@web.middleware
async def unit_of_work(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Make each request a unit of work, which ends when the response has gone out.

    aiohttp makes a 500 of an exception that is no response further out, after its end.
    """
    async with request.config_dict[SCOPE].lifecycle("after_route", "after_response") as unit:
        request[UNIT] = unit
        try:
            response = await handler(request)
        except web.HTTPException as answer:
            unit.fail()
            await send(answer, request)
            raise
        await send(response, request)
        return response


async def send(response: web.StreamResponse, request: web.Request) -> None:
    """Send what aiohttp would send a moment later, unless the client is gone."""
    with suppress(ConnectionError):
        await response.prepare(request)
        await response.write_eof()


async def before_response(request: web.Request, response: web.StreamResponse) -> None:
    """Let the tasks of `after_route` start before the first byte is sent."""
    if UNIT in request and request[UNIT].advance("after_route"):
        await asyncio.sleep(0)


# -- the application ------------------------------------------------------------------------


async def orders_context(app: web.Application) -> AsyncGenerator[None]:
    """Open what tasks use; every task has ended before it is closed again."""
    with open_orders() as orders:
        app[ORDERS] = orders
        yield


async def create_order(request: web.Request) -> web.Response:
    """Take an order."""
    order, orders, unit = request.match_info["order"], request.app[ORDERS], request[UNIT]
    unit.schedule(orders.track, order)
    unit.phase("after_route").task(shield=True).schedule(orders.charge, order)
    unit.phase("after_response").schedule(orders.mail, order)
    unit.phase("after_response").task(when="failure").schedule(orders.alert, order)
    if not orders.accepts(order):
        raise web.HTTPConflict(text=f"there is no order {order}")
    return web.Response(text=order, status=201)


def make_app(arguments: list[str]) -> web.Application:
    """Make the application, for `python -m aiohttp.web`."""
    app = web.Application()
    app.router.add_post("/orders/{order}", create_order)
    app.cleanup_ctx.append(orders_context)
    add_tasks(app)
    return app
