"""Products, and their pages, which are cached."""

from html import escape
from typing import Annotated

from fastapi import APIRouter, HTTPException
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, Field

from fastapi_tasks import Tasks
from shop.fields import Id, Text
from shop.resources import Shop, Transaction

router = APIRouter(tags=["products"])


class Product(BaseModel):
    """What is for sale; the price is in cents."""

    name: Text
    price: Annotated[int, Field(ge=0, lt=2**63)]


@router.get("/products/{product_id}", response_class=HTMLResponse)
def show_product(product_id: Id, db: Transaction, shop: Shop) -> HTMLResponse:
    """Show a product's page, and say in a header whether it came from the cache."""
    page = shop.pages.get(product_id)
    if page is not None:
        return HTMLResponse(page, headers={"X-Cache": "hit"})
    row = db.execute("SELECT * FROM products WHERE id = ?", (product_id,)).fetchone()
    if row is None:
        raise HTTPException(404, f"there is no product {product_id}")
    page = f"<h1>{escape(row['name'])}</h1><p>{row['price'] / 100:.2f}</p>"
    shop.pages.put(product_id, page)
    return HTMLResponse(page, headers={"X-Cache": "miss"})


@router.put("/products/{product_id}")
def update_product(
    product_id: Id, product: Product, db: Transaction, shop: Shop, tasks: Tasks
) -> Product:
    """Change a product. Its page is forgotten when the change is committed and answered."""
    changed = db.execute(
        "UPDATE products SET name = ?, price = ? WHERE id = ?",
        (product.name, product.price, product_id),
    )
    if not changed.rowcount:
        raise HTTPException(404, f"there is no product {product_id}")
    tasks.after_response.task(name="forget page").schedule(shop.pages.invalidate, product_id)
    return product
