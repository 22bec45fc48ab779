"""C3: cost against the number of tasks, and a drain against what it has to end."""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import statistics
from collections.abc import Awaitable, Callable
from time import process_time
from typing import Any

from tests.benchmarks.environments import PEERS, make
from tests.benchmarks.measure import ask, run_on, say
from tests.benchmarks.promises import Figure
from tests.benchmarks.tables import Row

MODULE = "tests.benchmarks.scale"
SIZES = (1_000, 10_000, 100_000, 1_000_000)
DRAINED = (1_000, 10_000, 100_000)
BATCH = 1_000
ROOM = 6 << 30
"""Bytes of free memory that a million tasks at once ask for, generously."""

FLAT = 1.15
LINEAR = 1.5
"""Drain: the most that one of 100,000 tasks may cost, in one of 10,000; quadratic were 10."""

Make = Callable[[int], Awaitable[None]]


async def ours_in_batches(n: int) -> None:
    """One scope, never more than `BATCH` tasks at once."""
    from taskcore import TaskScope
    from tests.benchmarks.peers import noop

    async with TaskScope() as scope:
        for _ in range(n // BATCH):
            for _ in range(BATCH):
                scope.schedule(noop)
            await scope.wait_idle()


async def bare_in_batches(n: int) -> None:
    """The same with the bare safe idiom."""
    from tests.benchmarks.peers import bare

    for _ in range(n // BATCH):
        await bare(BATCH)


async def ours_at_once(n: int) -> None:
    """All at once."""
    from tests.benchmarks.peers import ours

    await ours(n)


async def bare_at_once(n: int) -> None:
    """All at once."""
    from tests.benchmarks.peers import bare

    await bare(n)


FILLS: dict[str, Make] = {
    "taskcore, in batches of 1,000": ours_in_batches,
    "bare safe idiom, in batches of 1,000": bare_in_batches,
    "taskcore, all at once": ours_at_once,
    "bare safe idiom, all at once": bare_at_once,
}


async def cost(run: Make, n: int) -> float:
    """CPU seconds per task: once for many tasks, and often for few."""
    times = max(1, 50_000 // n)
    gc.collect()
    began = process_time()
    for _ in range(times):
        await run(n)
    return (process_time() - began) / times / n


async def flatness() -> float:
    """What one of a million tasks costs, in what one of a thousand does right before and after."""
    small, large = min(SIZES), max(SIZES)
    before = await cost(ours_in_batches, small)
    million = await cost(ours_in_batches, large)
    after = await cost(ours_in_batches, small)
    return million / statistics.mean((before, after))


async def fill(rounds: int) -> dict[str, dict[int, float]]:
    """CPU seconds per task for each size; as many tasks for each of them, in turn."""
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    found: dict[str, dict[int, list[float]]] = {name: {} for name in FILLS}
    for run in FILLS.values():
        await run(10 * BATCH)
    for n in SIZES:
        for _ in range(rounds if n < max(SIZES) else 1):
            for name, run in FILLS.items():
                if n == max(SIZES) and "at once" in name and free < ROOM:
                    continue
                found[name].setdefault(n, []).append(await cost(run, n))
    return {
        name: {n: statistics.median(times) for n, times in by_size.items()}
        for name, by_size in found.items()
    }


async def never() -> None:
    """Wait for ever."""
    await asyncio.get_running_loop().create_future()


async def drain_bare(n: int) -> float:
    """CPU seconds to cancel `n` bare tasks and wait for them."""
    tasks = [asyncio.create_task(never()) for _ in range(n)]
    await asyncio.sleep(0)
    began = process_time()
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    return process_time() - began


async def drain_running(n: int, **options: Any) -> float:
    """CPU seconds to drain `n` tasks that run, without a grace period."""
    from taskcore import TaskScope

    async with TaskScope(on_drain=lambda report: None, **options) as scope:
        for _ in range(n):
            scope.schedule(never)
        await asyncio.sleep(0)
        began = process_time()
        await scope.drain(grace_period=0)
        return process_time() - began


async def drain_waiting(n: int) -> float:
    """The same where all but ten wait in the backlog."""
    return await drain_running(n, limit=10)


async def drain_deferred(n: int) -> float:
    """The same where all are deferred to a phase that does not come."""
    from taskcore import TaskScope
    from tests.benchmarks.peers import noop

    async with TaskScope(on_drain=lambda report: None) as scope:
        unit = scope.lifecycle("never")
        phase = unit.phase("never")
        for _ in range(n):
            phase.schedule(noop)
        began = process_time()
        await scope.drain(grace_period=0)
        return process_time() - began


DRAINS: dict[str, Callable[[int], Awaitable[float]]] = {
    "running tasks": drain_running,
    "waiting tasks": drain_waiting,
    "deferred tasks": drain_deferred,
    "bare: cancel() and asyncio.wait()": drain_bare,
}


async def drains(rounds: int) -> dict[str, dict[int, float]]:
    """CPU seconds per task of a drain, for each kind and size."""
    found: dict[str, dict[int, float]] = {name: {} for name in DRAINS}
    for n in DRAINED:
        for name, run in DRAINS.items():
            times: list[float] = []
            for _ in range(rounds if n == max(DRAINED) else rounds * 5):
                gc.collect()
                times.append(await run(n) / n)
            found[name][n] = statistics.median(times)
    return found


async def measured(rounds: int) -> dict[str, Any]:
    """Both."""
    return {
        "fill": await fill(rounds),
        "flat": statistics.median([await flatness() for _ in range(rounds)]),
        "drain": await drains(rounds),
    }


def measure(python: str) -> dict[str, Any]:
    """CPU seconds per task by size."""
    say("C3: cost against the number of tasks")
    result: dict[str, Any] = ask(make("peers", PEERS, python), MODULE, "--rounds", "3")
    return result


def figures(result: dict[str, Any], where: str) -> list[Figure]:
    """What C3 promises of cost."""
    # In batches: at once, the bare idiom is not flat either, by caches and the cycle collector.
    what = "one of 1,000,000 tasks / of 1,000, in batches of 1,000"
    found = [Figure("C3", what, result["flat"], FLAT, where)]
    for name, by_size in result["drain"].items():
        if not name.startswith("bare"):
            *_, medium, large = by_size.values()  # a small one fits into the processor's caches
            what = f"drain of 100,000 {name} / of 10,000, per task"
            found.append(Figure("C3", what, large / medium, LINEAR, where))
    return found


def rows(by_name: dict[str, dict[str, float]]) -> list[Row]:
    """A table: CPU microseconds per task by number of tasks."""
    sizes = list(next(iter(by_name.values())))
    table: list[Row] = [("CPU us per task", *(f"{int(n):,}" for n in sizes))]
    for name, by_size in by_name.items():
        cells = (f"{by_size[n] * 1e6:.1f}" if n in by_size else "-" for n in sizes)
        table.append((name, *cells))
    return table


def main() -> None:
    """Be what is measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    print(json.dumps(run_on("asyncio", measured(parser.parse_args().rounds))))


if __name__ == "__main__":
    main()
