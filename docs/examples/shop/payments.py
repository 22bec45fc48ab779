"""Charges and refunds, with a gateway that only pretends."""

import asyncio
from typing import Any

from fastapi_tasks import Task
from shop.database import Database


class PaymentError(Exception):
    """The gateway refused a charge."""


class Payments:
    """Charges orders. The gateway takes `seconds` to answer."""

    def __init__(self, database: Database, seconds: float) -> None:
        self._database = database
        self._seconds = seconds

    async def charge(self, order_id: int, *, fail: bool) -> None:
        """Charge one order; `fail` makes the gateway refuse."""
        await asyncio.sleep(self._seconds)
        if fail:
            raise PaymentError(f"the gateway refused order {order_id}")
        await asyncio.to_thread(self._set_status, order_id, "charged")

    def refund(self, task: Task[..., Any], error: BaseException) -> None:
        """The error handler of `charge`: gets its task, and what it raised."""
        self._set_status(task.args[0], "refunded")

    def _set_status(self, order_id: int, status: str) -> None:
        with self._database.transaction() as db:
            db.execute("UPDATE orders SET status = ? WHERE id = ?", (status, order_id))
