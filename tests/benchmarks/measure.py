"""How everything is measured: interleaved, as ratios, by CPU time or by instructions.

A shared machine is slower now than a second ago. So each variant is measured right
beside the one it is compared with, and what counts is the median of those ratios.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from time import process_time
from typing import Any

from tests.benchmarks.environments import ROOT, variables

Run = Callable[[int], Awaitable[None]]

LOOPS = ("asyncio", "uvloop")
MARK = "getloadavg"
"""A C function that nothing else calls: callgrind writes and zeroes its counters there."""


def run_on(loop: str, main: Awaitable[Any]) -> Any:
    """Run a coroutine on the event loop of that name."""
    factory = None
    if loop == "uvloop":
        import uvloop  # only the measured environments have it

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main)  # type: ignore[arg-type]  # every main is a coroutine


async def cpu_times(variants: Mapping[str, Run], n: int, rounds: int) -> dict[str, list[float]]:
    """CPU seconds of `run(n)` for each variant, round by round, each round through all."""
    times: dict[str, list[float]] = {name: [] for name in variants}
    for run in variants.values():
        await run(n)
    gc.freeze()  # so that a collection looks at nothing but what the variant made
    for _ in range(rounds):
        for name, run in variants.items():
            gc.collect()
            began = process_time()
            await run(n)
            times[name].append(process_time() - began)
    return times


def ratio(times: list[float], base: list[float]) -> float:
    """The median of the ratios, pair by pair."""
    return statistics.median(t / b for t, b in zip(times, base, strict=True))


async def counted(variants: Mapping[str, Run], small: int, large: int) -> None:
    """Run each variant with two task counts between marks; for `instructions`."""
    gc.freeze()
    for run in variants.values():
        await run(small)
        for n in (small, large):
            gc.collect()
            os.getloadavg()
            await run(n)
            os.getloadavg()


def instructions(
    python: str, module: str, names: list[str], counts: tuple[int, int], *args: str
) -> dict[str, float] | None:
    """Instructions per task of each variant, the cost of the run itself subtracted.

    `module`, run with `--count`, must call `counted` on the variants `names`, in order.

    Returns:
        None where valgrind is missing.
    """
    if shutil.which("valgrind") is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [
                *("valgrind", "--tool=callgrind", f"--dump-before={MARK}"),
                *(f"--callgrind-out-file={folder}/out", f"--log-file={folder}/log"),
                *(python, "-m", module, "--count", *args),
            ],
            check=True,
            cwd=ROOT,
            env=variables(),
            stdout=subprocess.DEVNULL,
        )
        # Dump 1 is what came before the first mark, 2 the first run, 3 what lies between...
        dumps = [total(Path(folder, f"out.{at}")) for at in range(2, 4 * len(names) + 1, 2)]
    return {
        name: (dumps[2 * at + 1] - dumps[2 * at]) / (counts[1] - counts[0])
        for at, name in enumerate(names)
    }


def total(dump: Path) -> int:
    """The instructions in a file that callgrind wrote."""
    line = next(line for line in dump.read_text().splitlines() if line.startswith("summary:"))
    return int(line.split()[1])


def ask(python: str, module: str, *args: str) -> Any:
    """Run a module of this folder with another interpreter; it prints JSON."""
    answer = subprocess.run(
        [python, "-m", module, *args],
        check=True,
        cwd=ROOT,
        env=variables(),
        stdout=subprocess.PIPE,
        text=True,
    )
    return json.loads(answer.stdout.splitlines()[-1])


def say(text: str) -> None:
    """Progress, beside the results."""
    print(text, file=sys.stderr, flush=True)
