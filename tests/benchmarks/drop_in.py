"""Run the programs of `tests.fastapi_tasks.drop_in` on fastapi-tasks 0.1.0 from PyPI.

Run as `python -m tests.benchmarks.drop_in`; fails if one does not do there what it says.
`tests/fastapi_tasks/test_drop_in.py` runs the same programs on ours.
"""

from __future__ import annotations

import subprocess
import sys

from tests.benchmarks.environments import ROOT, make, variables

REFERENCE = ("fastapi-tasks==0.1.0", "fastapi", "httpx2")


def main() -> None:
    """Run them in an environment of their own."""
    command = [make("reference", REFERENCE), "-m", "tests.fastapi_tasks.drop_in_differences"]
    sys.exit(subprocess.run(command, cwd=ROOT, env=variables()).returncode)


if __name__ == "__main__":
    main()
