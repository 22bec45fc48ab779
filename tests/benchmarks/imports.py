"""C4: what `import taskcore` costs beside `import asyncio`, and what it brings along."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.benchmarks.environments import PEERS, make, variables
from tests.benchmarks.measure import ratio, say, total
from tests.benchmarks.promises import Figure

PAIRS = 40
LIMIT = 1.15
CODE = """
import time, sys
began = time.process_time()
import {module}
took = time.process_time() - began
known = sys.stdlib_module_names
others = {{name.partition(".")[0] for name in sys.modules}} - known - {{"__main__", "taskcore"}}
import json
print(json.dumps([took, sorted(name for name in others if not name.startswith("_"))]))
"""


def import_once(python: str, module: str) -> Any:
    """CPU seconds, and the third-party modules that are loaded afterwards."""
    code = CODE.format(module=module)
    # -S: no site-packages, whose .pth files import things of their own.
    answer = subprocess.run(
        [python, "-S", "-c", code], check=True, capture_output=True, text=True, env=variables()
    )
    return json.loads(answer.stdout)


def count(python: str, module: str) -> int:
    """The instructions that importing `module` takes beyond those of an empty program."""
    counts: list[int] = []
    with tempfile.TemporaryDirectory() as folder:
        for code in ("pass", f"import {module}"):
            files = (f"--callgrind-out-file={folder}/out", f"--log-file={folder}/log")
            command = ["valgrind", "--tool=callgrind", *files, python, "-S", "-c", code]
            subprocess.run(command, check=True, env=variables())
            counts.append(total(Path(folder, "out")))
    return counts[1] - counts[0]


def measure(python: str) -> dict[str, Any]:
    """Interleaved runs in fresh processes; bytecode is there already."""
    environment = make("peers", PEERS, python)
    say("C4: import")
    times: dict[str, list[float]] = {"asyncio": [], "taskcore": []}
    others: set[str] = set()
    for module in times:
        import_once(environment, module)
    for _ in range(PAIRS):
        for module, taken in times.items():
            seconds, found = import_once(environment, module)
            taken.append(seconds)
            others.update(found)
    # The CPU time of so short a run is noisy: the instructions repeat to a thousandth.
    has_valgrind = shutil.which("valgrind") is not None
    counts = {module: count(environment, module) for module in times} if has_valgrind else None
    return {"times": times, "instructions": counts, "others": sorted(others)}


def figures(result: dict[str, Any], where: str) -> list[Figure]:
    """What C4 promises."""
    what = "import taskcore / import asyncio"
    times, counts = result["times"], result["instructions"]
    by_time = ratio(times["taskcore"], times["asyncio"])
    found = [Figure("C4", f"{what}, CPU", by_time, LIMIT, where)]
    if counts is not None:
        by_count = counts["taskcore"] / counts["asyncio"]
        found.append(Figure("C4", f"{what}, counted", by_count, LIMIT, where))
    return [*found, Figure("C4", "third-party modules imported", len(result["others"]), 0, where)]


if __name__ == "__main__":
    for figure in figures(measure(sys.executable), ""):
        print(*figure.cells())
