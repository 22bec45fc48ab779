"""How long a `def` endpoint takes while background functions block their threads."""

from __future__ import annotations

import asyncio
import json
import statistics
from time import perf_counter
from typing import Any

from tests.benchmarks.environments import PEERS, make
from tests.benchmarks.measure import ask, run_on, say
from tests.benchmarks.promises import REFERENCE
from tests.benchmarks.tables import Row

MODULE = "tests.benchmarks.latency"
BLOCKING = 400
"""Background functions that are there while the endpoint is called."""
CALLS = 30


async def latencies(app: Any, blocking: int) -> list[float]:
    """Seconds of each call of the `def` endpoint. The only figure here by the wall clock."""
    from tests.benchmarks.apps import served

    async with served(app) as request:
        await request("/sync")
        background = [asyncio.ensure_future(request("/block")) for _ in range(blocking)]
        for _ in range(20):
            await asyncio.sleep(0)  # until they have been answered
        found: list[float] = []
        for _ in range(CALLS):
            began = perf_counter()
            await request("/sync")
            found.append(perf_counter() - began)
        if background:
            await asyncio.wait(background)
    return found


async def measured() -> dict[str, list[float]]:
    """All apps, one after the other: each has the machine to itself."""
    from tests.benchmarks.apps import one, ours, plain, reference, starlette_one

    return {
        "nothing in the background": await latencies(plain(), 0),
        "fastapi-tasks": await latencies(one(ours), BLOCKING),
        REFERENCE: await latencies(one(reference), BLOCKING),
        "Starlette BackgroundTasks": await latencies(starlette_one(), BLOCKING),
    }


def measure(python: str) -> dict[str, Any]:
    """Seconds of each call, by library."""
    say("latency of a def endpoint")
    result: dict[str, Any] = ask(make("peers", PEERS, python), MODULE)
    return result


def rows(result: dict[str, Any]) -> list[Row]:
    """A table: milliseconds."""
    return [
        ("milliseconds", "median", "longest"),
        *(
            (name, f"{statistics.median(times) * 1e3:.2f}", f"{max(times) * 1e3:.2f}")
            for name, times in result.items()
        ),
    ]


if __name__ == "__main__":
    print(json.dumps(run_on("asyncio", measured())))
