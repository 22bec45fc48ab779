"""C3: memory of a running and of a waiting task, and what a million tasks leave behind."""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import sys
import tracemalloc
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from tests.benchmarks.environments import PEERS, make
from tests.benchmarks.measure import ask, run_on, say
from tests.benchmarks.promises import Figure
from tests.benchmarks.tables import Row

MODULE = "tests.benchmarks.memory"
TASKS = 20_000
MILLION = 1_000_000
BARE, RUNNING, WAITING = "bare asyncio.Task", "taskcore, running", "taskcore, waiting"
MEMORY_LIMITS = {RUNNING: 1.35, WAITING: 0.5}
"""C3: the most memory that a task may take, in bare asyncio tasks of the same coroutine."""

Filled = Callable[[Callable[[], None]], Awaitable[None]]


async def never() -> None:
    """Wait for ever, for a future of one's own."""
    await asyncio.get_running_loop().create_future()


async def bare(look: Callable[[], None]) -> None:
    """`create_task`, and the strong reference that it needs."""
    tasks = {asyncio.create_task(never()) for _ in range(TASKS)}
    await asyncio.sleep(0)
    look()
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def ours(look: Callable[[], None], limit: int | None = None) -> None:
    """`scope.schedule`, nothing kept."""
    from taskcore import TaskScope

    async with TaskScope(limit=limit, on_drain=lambda report: None) as scope:
        for _ in range(TASKS):
            scope.schedule(never)
        await asyncio.sleep(0)
        look()
        await scope.drain(grace_period=0)


async def ours_waiting(look: Callable[[], None]) -> None:
    """All but one wait in the backlog."""
    await ours(look, limit=1)


KINDS: dict[str, Filled] = {BARE: bare, RUNNING: ours, WAITING: ours_waiting}


def resident() -> int:
    """Bytes of this process in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


async def held(kind: str) -> float:
    """Bytes per task of that kind, as Python's allocators count them."""
    await KINDS[kind](lambda: None)
    gc.collect()
    found = 0
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()

    def look() -> None:
        nonlocal found
        gc.collect()
        found = tracemalloc.get_traced_memory()[0] - before

    await KINDS[kind](look)
    return found / TASKS


async def leftovers() -> dict[str, int]:
    """What is there after a million tasks, in every way, that was not there before.

    With the cycle collector off: whatever is left is an object that only it would free.
    """
    from taskcore import TaskScope
    from tests.benchmarks.peers import noop, on_error

    async with TaskScope() as scope, TaskScope(limit=50) as limited:

        async def every_way(n: int) -> None:
            async with scope.lifecycle("stored") as unit:
                for _ in range(n // 4):
                    scope.schedule(noop)
                    scope.task(name="noop", shield=True, on_error=on_error).schedule(noop)
                    limited.schedule(noop)
                    unit.phase("stored").schedule(noop)
            await scope.wait_idle()
            await limited.wait_idle()

        for _ in range(20):
            await every_way(1_000)
        gc.collect()
        gc.disable()
        blocks, memory = sys.getallocatedblocks(), resident()
        for _ in range(MILLION // 1_000):
            await every_way(1_000)
        more, grown = sys.getallocatedblocks() - blocks, resident() - memory
        garbage = gc.collect()
        gc.enable()
    return {"garbage": garbage, "blocks": more, "bytes": grown}


def measure(python: str) -> dict[str, Any]:
    """Bytes per task, and what a million leave."""
    environment = make("peers", PEERS, python)
    say("C3: memory")
    return {
        "traced": {kind: ask(environment, MODULE, "--kind", kind) for kind in KINDS},
        "left": ask(environment, MODULE),
    }


def figures(result: dict[str, Any], where: str) -> list[Figure]:
    """What C3 promises of memory."""
    found = [
        Figure(
            "C3",
            f"memory: {kind} / {BARE}",
            result["traced"][kind] / result["traced"][BARE],
            limit,
            where,
        )
        for kind, limit in MEMORY_LIMITS.items()
    ]
    left = result["left"]
    found.append(Figure("C3", "garbage after a million tasks, objects", left["garbage"], 0, where))
    # Not zero: the interpreter has caches of its own. One block per task would be a million.
    found.append(Figure("C3", "blocks of memory more after them", left["blocks"], 1_000, where))
    return found


def rows(result: dict[str, Any]) -> list[Row]:
    """A table: bytes per task."""
    traced = result["traced"]
    return [
        ("a task that", "bytes", "in bare tasks"),
        *((kind, f"{size:,.0f}", f"{size / traced[BARE]:.2f}") for kind, size in traced.items()),
    ]


def main() -> None:
    """Be what is measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind")
    options = parser.parse_args()
    main = held(options.kind) if options.kind else leftovers()
    print(json.dumps(run_on("asyncio", main)))


if __name__ == "__main__":
    main()
