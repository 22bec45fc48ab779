"""What an endpoint gets as `tasks`: the request's unit of work, under FastAPI's names."""

from __future__ import annotations

from taskcore import Phase, TaskScope
from taskcore.asgi import AFTER_RESPONSE, AFTER_ROUTE
from taskcore.spi import Lifecycle, Scheduler


class RequestTasks(Scheduler):
    """Schedules tasks at the three moments of one request.

    `tasks.schedule(f)` starts at once, `tasks.after_route.schedule(f)` when the endpoint
    has returned and nothing has been sent, `tasks.after_response.schedule(f)` when the
    response has gone out. Each of the three has `task(...)` for options.

    Pitfalls:
        Wrong: `tasks.schedule(send_mail(address))`. Right: `tasks.schedule(send_mail, address)`.
    """

    __slots__ = ("_request",)

    def __init__(self, unit: Lifecycle) -> None:
        """Made by the adapter; take `tasks: Tasks` as a parameter instead."""
        super().__init__(unit.scope, unit.config)
        self._request = unit

    @property
    def after_route(self) -> Phase:
        """The moment when the endpoint has returned, before any byte of the response."""
        return self._request.phase(AFTER_ROUTE)

    @property
    def after_response(self) -> Phase:
        """The moment when the response has gone out and all dependencies have exited."""
        return self._request.phase(AFTER_RESPONSE)

    @property
    def scope(self) -> TaskScope:
        """The app's scope, which outlives the request."""
        return self._request.scope
