"""`make bench`: measure everything, print the promised figures, write docs/benchmarks.md."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from typing import Any

from tests.benchmarks import (
    cost,
    guard,
    imports,
    latency,
    memory,
    report,
    request,
    scale,
    throughput,
)
from tests.benchmarks.environments import (
    BENCH,
    PLOTS,
    ROOT,
    find_pythons,
    make,
    variables,
    version_of,
)
from tests.benchmarks.measure import say
from tests.benchmarks.tables import text_table

RESULTS = BENCH / "results.json"


def measure(rounds: int) -> dict[str, Any]:
    """Everything, in some minutes."""
    here = sys.executable
    pythons: dict[str, Any] = {}
    for python in find_pythons():
        version = version_of(python)
        say(f"== Python {version}")
        pythons[version] = {
            "cost": cost.measure(python, [], rounds, count=python == here),
            "request": request.measure(python, rounds, count=python == here),
        }
    return {
        "machine": f"{platform.system()} on {platform.machine()}, {os.cpu_count()} processors",
        "pythons": pythons,
        "scale": scale.measure(here),
        "memory": memory.measure(here),
        "imports": imports.measure(here),
        "latency": latency.measure(here),
        "throughput": throughput.measure(here),
    }


def main() -> int:
    """Return 1 if the hot path has become more expensive than its baseline."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=11, help="of CPU time per comparison")
    options = parser.parse_args()

    results = measure(options.rounds)
    RESULTS.write_text(json.dumps(results))
    docs = ROOT / "docs"
    docs.mkdir(exist_ok=True)
    (docs / "benchmarks.md").write_text(report.page(results))
    draw = [make("plots", PLOTS), "-m", "tests.benchmarks.plots"]
    subprocess.run([*draw, RESULTS, docs / "benchmarks"], check=True, cwd=ROOT, env=variables())

    print(text_table(report.figure_rows(results)))
    python, parts = next(iter(results["pythons"].items()))
    crept = guard.creep(parts["cost"], python)
    for line in crept:
        print(f"guard: {line}")
    return 1 if crept else 0


if __name__ == "__main__":
    sys.exit(main())
