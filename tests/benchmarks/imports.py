"""C4: what `import taskcore` costs beside `import asyncio`, and what it brings along."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from tests.benchmarks.environments import PEERS, make, variables
from tests.benchmarks.measure import ratio, say
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
    return {"times": times, "others": sorted(others)}


def figures(result: dict[str, Any], where: str) -> list[Figure]:
    """What C4 promises."""
    times = result["times"]
    return [
        Figure(
            "C4",
            "import taskcore / import asyncio",
            ratio(times["taskcore"], times["asyncio"]),
            LIMIT,
            where,
        ),
        Figure("C4", "third-party modules imported", len(result["others"]), 0, where),
    ]


if __name__ == "__main__":
    for figure in figures(measure(sys.executable), ""):
        print(*figure.cells())
