"""The first page: what to try."""

from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse

router = APIRouter()

TEXT = """\
A shop whose background tasks start exactly when they should. Try:

A mail after the response
    curl {url}users --json '{{"name": "Ada", "email": "ada@example.org"}}'
    curl {url}mailbox

An event at once, a shielded charge after the commit, an audit line in any case
    curl {url}orders --json '{{"product_id": 1, "quantity": 2}}'
    curl {url}orders/1
    curl '{url}orders?fail=1' --json '{{"product_id": 2, "quantity": 1}}'    # it is refunded
    curl {url}orders --json '{{"product_id": 99, "quantity": 1}}'           # it is refused
    curl {url}analytics
    curl {url}audit

An index entry after the commit, thumbnails in threads after the response
    curl {url}upload -F title='A red teapot' -F image=@teapot.png
    curl '{url}search?q=teapot'
    curl {url}images/1/small -o small.png

A cached page, forgotten after the response (look at the X-Cache header)
    curl -i {url}products/1
    curl -X PUT {url}products/1 --json '{{"name": "Red teapot", "price": 2100}}'

When all of that happened
    curl {url}timeline
    {url}timeline in a browser, or {url}timeline.svg

A shutdown that loses nothing: start it with SHOP_DATA=/tmp/shop SHOP_CHARGE_SECONDS=10,
place an order, press Ctrl-C. Every other task gets 5 seconds; the charge is shielded.

Every endpoint: {url}docs
"""


@router.get("/", response_class=PlainTextResponse)
def show_home(request: Request) -> str:
    """List what to try."""
    return TEXT.format(url=request.base_url)
