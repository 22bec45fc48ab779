"""The timeline: a document for programs, a picture for people."""

from typing import Annotated

from fastapi import APIRouter, Header, Response
from fastapi.responses import HTMLResponse

from shop.drawing import draw
from shop.resources import Shop
from shop.timeline import RequestMoments

router = APIRouter(tags=["timeline"])

PAGE = """\
<!doctype html><meta charset="utf-8"><title>Timeline</title>
<body style="font-family: sans-serif">
<p>A dot: scheduled. A dashed line: waits for its moment. A bar: runs. The three numbers are the
same in milliseconds from the request's start. Each phase has a scale of its own.
Reload for more; <a href="/timeline.svg">the picture alone</a>, <a href="/">what to try</a>.</p>
{svg}
"""


@router.get("/timeline", response_model=list[RequestMoments])
async def show_timeline(
    shop: Shop, accept: Annotated[str, Header()] = ""
) -> list[RequestMoments] | Response:
    """Show the last requests that had tasks, newest first. A browser gets a page, others JSON."""
    requests = list(reversed(shop.timeline.requests))
    if "text/html" in accept:
        return HTMLResponse(PAGE.format(svg=draw(requests)))
    return requests


@router.get("/timeline.svg")
async def draw_timeline(shop: Shop) -> Response:
    """Draw the last requests, newest first."""
    return Response(draw(reversed(shop.timeline.requests)), media_type="image/svg+xml")
