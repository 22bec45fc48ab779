"""Orders: one endpoint, three moments."""

import sqlite3
from typing import Annotated, Any, Literal

from fastapi import APIRouter, HTTPException, status
from pydantic import BaseModel, Field

from fastapi_tasks import Tasks
from shop.fields import Id
from shop.resources import Shop, Transaction

router = APIRouter(tags=["orders"])


class NewOrder(BaseModel):
    """What someone wants to buy."""

    product_id: Id
    quantity: Annotated[int, Field(ge=1, le=1000)]


class Order(NewOrder):
    """An order in the database."""

    id: Id
    status: Literal["pending", "charged", "refunded"]


@router.post("/orders", status_code=status.HTTP_201_CREATED)
def create_order(
    order: NewOrder, db: Transaction, shop: Shop, tasks: Tasks, fail: bool = False
) -> Order:
    """Store an order; `fail` makes the payment gateway refuse it later."""
    facts = order.model_dump()
    # At once, beside this function: it says what was tried.
    tasks.task(name="analytics").schedule(shop.analytics.add, "order", **facts)
    # Also when this function raises, as it does for an unknown product.
    tasks.after_response.task(name="audit", when="always").schedule(
        shop.audit.add, "order", **facts
    )
    try:
        row = db.execute(
            "INSERT INTO orders (product_id, quantity) VALUES (:product_id, :quantity) RETURNING *",
            facts,
        ).fetchone()
    except sqlite3.IntegrityError:
        raise HTTPException(404, f"there is no product {order.product_id}") from None
    # When the order is committed, and only then. A shutdown waits for it.
    tasks.after_route.task(name="charge", shield=True, on_error=shop.payments.refund).schedule(
        shop.payments.charge, row["id"], fail=fail
    )
    return Order.model_validate(dict(row))


@router.get("/orders/{order_id}")
def show_order(order_id: Id, db: Transaction) -> Order:
    """Show an order and how its payment stands."""
    row = db.execute("SELECT * FROM orders WHERE id = ?", (order_id,)).fetchone()
    if row is None:
        raise HTTPException(404, f"there is no order {order_id}")
    return Order.model_validate(dict(row))


@router.get("/analytics")
def show_analytics(shop: Shop) -> list[dict[str, Any]]:
    """List the recorded events."""
    return shop.analytics.read()


@router.get("/audit")
def show_audit(shop: Shop) -> list[dict[str, Any]]:
    """List the audit lines."""
    return shop.audit.read()
