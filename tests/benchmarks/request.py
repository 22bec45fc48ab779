"""C2: what tasks add to a request, without sockets.

`python -m tests.benchmarks.request` prints the figures in about a minute.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from typing import Any

from tests.benchmarks.environments import PEERS, make
from tests.benchmarks.measure import (
    LOOPS,
    Run,
    ask,
    counted,
    cpu_times,
    instructions,
    ratio,
    run_on,
    say,
)
from tests.benchmarks.promises import REFERENCE, Figure
from tests.benchmarks.tables import Row, text_table

MODULE = "tests.benchmarks.request"
REQUESTS = 100
"""Requests of one run."""
COUNTS = (20, 60)
"""The two numbers of requests between which instructions are counted."""

NONE = "no tasks"
REQUEST_LIMITS = {
    "add_tasks, not used": 1.06,
    "one task": 1.4,
    "three tasks, three moments": 1.6,
}
"""C2: the most that a request may cost, in requests without tasks."""
SHARE = 0.2
"""C2: the part of what fastapi-tasks 0.1.0 adds to a request that ours may add."""


async def measured(options: argparse.Namespace) -> Any:
    """Serve every app in this process, and measure requests to each."""
    from tests.benchmarks.apps import APPS, served  # for the peers' environment only

    async def run_for(stack: AsyncExitStack, app: Any) -> Run:
        request = await stack.enter_async_context(served(app))

        async def run(n: int) -> None:
            for _ in range(n):
                await request("/")
                await asyncio.sleep(0)  # the turn in which tasks run

        return run

    async with AsyncExitStack() as stack:
        runs = {name: await run_for(stack, make_app()) for name, make_app in APPS.items()}
        if options.count:
            return await counted(runs, *COUNTS)
        return await cpu_times(runs, REQUESTS, options.rounds)


def measure(python: str, rounds: int, *, count: bool = True) -> dict[str, Any]:
    """CPU times and, with `count`, instructions of a request to every app, on both loops."""
    environment = make("peers", PEERS, python)
    result: dict[str, Any] = {}
    for loop in LOOPS:
        say(f"C2 on {loop}: CPU time")
        times = ask(environment, MODULE, "--loop", loop, "--rounds", str(rounds))
        result[loop] = {"times": times, "instructions": None}
    if not count:
        return result

    def instructions_on(loop: str) -> dict[str, float] | None:
        names = list(result[loop]["times"])
        return instructions(environment, MODULE, names, COUNTS, "--loop", loop)

    say("C2: instructions")
    with ThreadPoolExecutor() as pool:
        for loop, counts in zip(LOOPS, pool.map(instructions_on, LOOPS), strict=True):
            result[loop]["instructions"] = counts
    return result


def share(times: dict[str, list[float]]) -> float:
    """What ours adds for one task, in what fastapi-tasks 0.1.0 adds for one."""
    rounds = zip(times["one task"], times[f"{REFERENCE}, one task"], times[NONE], strict=True)
    return statistics.median((one - none) / (peer - none) for one, peer, none in rounds)


def figures(result: dict[str, Any], where: str) -> list[Figure]:
    """What C2 promises, by CPU time."""
    found: list[Figure] = []
    for loop in LOOPS:
        times = result[loop]["times"]
        on = f"{where}, {loop}"
        for name, limit in REQUEST_LIMITS.items():
            found.append(
                Figure("C2", f"{name} / {NONE}", ratio(times[name], times[NONE]), limit, on)
            )
        what = f"added by one task / by one of {REFERENCE}"
        found.append(Figure("C2", what, share(times), SHARE, on))
    return found


def rows(result: dict[str, Any]) -> list[Row]:
    """A table: per loop, the ratio by CPU time and by instructions."""
    head: tuple[str, ...] = ("in requests without tasks",)
    for loop in LOOPS:
        head += (f"{loop}, CPU", "counted", "CPU us")
    table: list[Row] = [head]
    for name in result["asyncio"]["times"]:
        row: tuple[str, ...] = (name,)
        for loop in LOOPS:
            times, counts = result[loop]["times"], result[loop]["instructions"]
            row += (
                f"{ratio(times[name], times[NONE]):.2f}",
                f"{counts[name] / counts[NONE]:.2f}" if counts else "-",
                f"{statistics.median(times[name]) / REQUESTS * 1e6:.0f}",
            )
        table.append(row)
    return table


def main() -> None:
    """Measure and print; with `--loop`, be what is measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--loop", help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--count", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.loop:
        print(json.dumps(run_on(options.loop, measured(options))))
    else:
        result = measure(sys.executable, options.rounds)
        print(text_table(rows(result)))


if __name__ == "__main__":
    main()
