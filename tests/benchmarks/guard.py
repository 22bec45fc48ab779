"""Guard against slow creep: counted instructions of the hot path against `baseline.json`.

What is compared is the cost of a task in bare safe idioms, by instructions: it repeats to
a fraction of a percent on one interpreter, and hardly depends on the machine.
`python -m tests.benchmarks.guard` counts and compares alone, in a minute; with
`--accept`, what was counted becomes the new baseline.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tests.benchmarks import cost
from tests.benchmarks.environments import version_of
from tests.benchmarks.measure import LOOPS
from tests.benchmarks.promises import BASE, PLAIN, TASK_LIMITS

FILE = Path(__file__).with_name("baseline.json")
CREEP = 1.05
"""The most that a figure may be, in its baseline."""


def hot_path(result: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Counted cost of each way of ours, by loop; empty without valgrind."""
    return {
        loop: {name: round(counts[name] / counts[BASE], 3) for name in TASK_LIMITS}
        for loop in LOOPS
        if (counts := result[loop]["instructions"]) is not None
    }


def creep(result: dict[str, Any], python: str) -> list[str]:
    """What costs more than the baseline allows, a line each."""
    baseline: dict[str, Any] = json.loads(FILE.read_text()) if FILE.exists() else {}
    now = hot_path(result)
    if not now:
        return []
    key = _key(python)
    if key not in baseline:
        print(f"guard: {FILE.name} has no figures for Python {key}; guard --accept adds them")
        return []
    return [
        f"{name} on {loop}: {value:.3f} bare tasks by instructions, was {before:.3f}"
        for loop, values in now.items()
        for name, value in values.items()
        if (before := baseline[key][loop].get(name)) and value > before * CREEP
    ]


def accept(result: dict[str, Any], python: str) -> None:
    """Make what was measured the baseline of this Python."""
    baseline: dict[str, Any] = json.loads(FILE.read_text()) if FILE.exists() else {}
    baseline[_key(python)] = hot_path(result)
    FILE.write_text(json.dumps(baseline, indent=2) + "\n")


def _key(version: str) -> str:
    return version.rpartition(".")[0]  # patch releases count alike


def main() -> int:
    """Return 1 if something costs more than its baseline allows."""
    python = version_of(sys.executable)
    counted = cost.measure(sys.executable, [PLAIN], rounds=1)
    if "--accept" in sys.argv:
        accept(counted, python)
    crept = creep(counted, python)
    print(*crept or ["guard: nothing has become more expensive"], sep="\n")
    return 1 if crept else 0


if __name__ == "__main__":
    sys.exit(main())
