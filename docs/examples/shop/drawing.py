"""The timeline as an SVG picture: three phases side by side, one lane for each task."""

from bisect import bisect_right
from collections.abc import Iterable
from html import escape
from itertools import pairwise

from shop.timeline import RequestMoments, TaskMoments

WIDTH, LEFT, RIGHT = 960, 170, 660
"""Pixels: of the picture, and where the lanes begin and end. Numbers stand right of them."""
HEADER, LANE, FOOTER = 52, 24, 34
"""Pixels, from top to bottom: above the lanes of a request, for each lane, below them."""
EDGES = (LEFT, LEFT + 200, LEFT + 290, RIGHT)
"""Where the phases begin and end. Each has a scale of its own, so that all three can be seen."""
PHASES = (("endpoint", "#e4edfb"), ("response", "#fdf0d2"), ("after response", "#e6f4e6"))
COLOURS = {"succeeded": "#2e8b57", "running": "#4a7fc1", "failed": "#c0392b"}
OTHER_COLOUR = "#8a8f98"


def draw(requests: Iterable[RequestMoments]) -> str:
    """Draw each request that has been answered."""
    parts: list[str] = []
    top = 8
    for request in requests:
        if request.endpoint_returned is not None and request.response_out:
            parts += _draw_request(request, request.endpoint_returned, request.response_out, top)
            top += HEADER + LANE * len(request.tasks) + FOOTER
    if not parts:
        parts = [_text(16, 30, "No request has scheduled a task yet: see / for what to try.")]
        top = 48
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top}" '
        f'width="{WIDTH}" height="{top}" font-family="sans-serif" font-size="12">'
        f'<rect width="100%" height="100%" fill="white"/>{"".join(parts)}</svg>'
    )


def _draw_request(
    request: RequestMoments, returned: float, response_out: float, top: int
) -> list[str]:
    moments = [m for task in request.tasks for m in (task.scheduled, task.started, task.finished)]
    end = max(response_out + 1, *(moment for moment in moments if moment is not None))
    times = (0.0, returned, response_out, end)
    lanes, bottom = top + HEADER, top + HEADER + LANE * len(request.tasks)

    parts = [_text(16, top + 16, f"{request.request} → {request.status}", "bold")]
    for (name, colour), (left, right) in zip(PHASES, pairwise(EDGES), strict=True):
        parts.append(_rect(left, top + 24, right - left, bottom - top - 20, colour))
        parts.append(_text((left + right) / 2, top + 40, name, anchor="middle"))
    parts.append(_text(RIGHT + 30, top + 40, "scheduled · started · finished"))
    # The two moments in the middle may be close in time, but never on paper.
    for edge, moment in zip(EDGES, times, strict=True):
        parts.append(_text(edge, bottom + 18, f"{moment:.1f} ms", anchor="middle"))
    for number, task in enumerate(request.tasks):
        parts += _draw_task(task, times, lanes + LANE * number)
    return parts


def _draw_task(task: TaskMoments, times: tuple[float, ...], top: int) -> list[str]:
    """Draw a dot where it was scheduled, a line while it waited, a bar while it ran."""
    middle, end = top + LANE / 2, times[-1]
    scheduled = _place(task.scheduled, times)
    waited = _place(task.started or task.finished or end, times)
    colour = COLOURS.get(task.state, OTHER_COLOUR)
    moments = (task.scheduled, task.started, task.finished)
    numbers = " · ".join(f"{moment:.1f}" for moment in moments if moment is not None)
    parts = [
        _text(LEFT - 12, middle + 4, task.name, anchor="end"),
        f'<path d="M{scheduled:.1f} {middle}H{waited:.1f}" stroke="{colour}" '
        'stroke-dasharray="3 2"/>',
        f'<circle cx="{scheduled:.1f}" cy="{middle}" r="3.5" fill="{colour}"/>',
        _text(RIGHT + 30, middle + 4, f"{numbers} ms, {task.state}"),
    ]
    if task.started is not None:
        width = _place(task.finished or end, times) - waited
        parts.append(_rect(waited, top + 5, max(width, 3), LANE - 10, colour))
    return parts


def _place(moment: float, times: tuple[float, ...]) -> float:
    """Where a moment stands from left to right."""
    phase = min(bisect_right(times, moment) - 1, len(PHASES) - 1)
    part = (moment - times[phase]) / (times[phase + 1] - times[phase])
    return EDGES[phase] + part * (EDGES[phase + 1] - EDGES[phase])


def _rect(left: float, top: float, width: float, height: float, colour: str) -> str:
    return f'<rect x="{left:.1f}" y="{top}" width="{width:.1f}" height="{height}" fill="{colour}"/>'


def _text(x: float, y: float, text: str, weight: str = "normal", anchor: str = "start") -> str:
    return (
        f'<text x="{x:.1f}" y="{y}" font-weight="{weight}" text-anchor="{anchor}">'
        f"{escape(text)}</text>"
    )
