"""C1: what it costs to schedule, run and finish one no-op coroutine.

`python -m tests.benchmarks.cost` prints the figures in about two minutes; with words
(`cost taskcore`), only those of variants that have one of them in their name.
"""

from __future__ import annotations

import argparse
import json
import sys
from concurrent.futures import ThreadPoolExecutor
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
from tests.benchmarks.promises import AIOJOBS, BASE, PLAIN, REFERENCE, TASK_LIMITS, Figure
from tests.benchmarks.tables import Row, text_table

MODULE = "tests.benchmarks.cost"
TASKS = 1_000
"""Tasks of one run."""
COUNTS = (300, 700)
"""The two numbers of tasks between which instructions are counted."""


def choose(words: list[str]) -> dict[str, Run]:
    """The bare idiom, and the variants that have one of `words` in their name; or all."""
    from tests.benchmarks import peers  # only the peers' environment has what it imports

    return {
        name: peer
        for name, peer in peers.VARIANTS.items()
        if not words or name == BASE or any(word in name for word in words)
    }


def measure(python: str, words: list[str], rounds: int, *, count: bool = True) -> dict[str, Any]:
    """CPU times and, with `count`, instructions of every variant, on both loops."""
    environment = make("peers", PEERS, python)
    result: dict[str, Any] = {}
    for loop in LOOPS:
        say(f"C1 on {loop}: CPU time")
        times = ask(environment, MODULE, "--loop", loop, "--rounds", str(rounds), *words)
        result[loop] = {"times": times, "instructions": None}
    if not count:
        return result

    def instructions_on(loop: str) -> dict[str, float] | None:
        names = list(result[loop]["times"])
        return instructions(environment, MODULE, names, COUNTS, "--loop", loop, *words)

    say("C1: instructions")
    with ThreadPoolExecutor() as pool:  # counts do not mind company
        for loop, counts in zip(LOOPS, pool.map(instructions_on, LOOPS), strict=True):
            result[loop]["instructions"] = counts
    return result


def figures(result: dict[str, Any], where: str) -> list[Figure]:
    """What C1 promises, by CPU time."""
    found: list[Figure] = []
    for loop in LOOPS:
        times = result[loop]["times"]
        on = f"{where}, {loop}"
        for name, limit in TASK_LIMITS.items():
            value = ratio(times[name], times[BASE])
            found.append(Figure("C1", f"{name} / {BASE}", value, limit, on))
        for peer in (REFERENCE, AIOJOBS):
            value = ratio(times[peer], times[PLAIN])
            found.append(Figure("C1", f"{peer} / {PLAIN}", value, 7, on, at_least=True))
    return found


def rows(result: dict[str, Any]) -> list[Row]:
    """A table: per loop, the ratio by CPU time, by instructions, and instructions per task."""
    head: tuple[str, ...] = ("in bare safe idioms",)
    for loop in LOOPS:
        head += (f"{loop}, CPU", "counted", "instructions")
    table: list[Row] = [head]
    for name in result["asyncio"]["times"]:
        row: tuple[str, ...] = (name,)
        for loop in LOOPS:
            times, counts = result[loop]["times"], result[loop]["instructions"]
            row += (f"{ratio(times[name], times[BASE]):.2f}",)
            row += (
                (f"{counts[name] / counts[BASE]:.2f}", f"{counts[name]:,.0f}")
                if counts
                else ("-", "-")
            )
        table.append(row)
    return table


def main() -> None:
    """Measure and print; with `--loop`, be what is measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("words", nargs="*")
    parser.add_argument("--loop", help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--count", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.count:
        run_on(options.loop, counted(choose(options.words), *COUNTS))
    elif options.loop:
        times = run_on(options.loop, cpu_times(choose(options.words), TASKS, options.rounds))
        print(json.dumps(times))
    else:
        print(text_table(rows(measure(sys.executable, options.words, options.rounds))))


if __name__ == "__main__":
    main()
