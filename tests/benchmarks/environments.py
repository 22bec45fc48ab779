"""The environments of the measured programs, made once under `.tools/bench/`.

What is measured runs apart from the test environment: fastapi-tasks 0.1.0 on PyPI is
another project with the name of ours.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
BENCH = ROOT / ".tools" / "bench"
TASKCORE = ROOT / "packages" / "taskcore" / "src"
FASTAPI_TASKS = ROOT / "packages" / "fastapi-tasks" / "src"

PEERS = (
    "fastapi-tasks==0.1.0",
    "aiojobs==1.4.0",
    "aiotools==2.2.4",
    "asgi-background==0.2.2",
    "fastapi",
    "uvicorn",
    "uvloop",
)
PLOTS = ("matplotlib==3.11.2",)


def find_pythons() -> list[str]:
    """This interpreter, and Python 3.13 where it is on PATH: C1 and C2 are promised on both."""
    newer = None if sys.version_info >= (3, 13) else shutil.which("python3.13")
    return [sys.executable] + ([newer] if newer else [])


def make(name: str, packages: tuple[str, ...], python: str = sys.executable) -> str:
    """Make a virtual environment with `packages`, unless it is there; return its interpreter."""
    folder = BENCH / f"{name}-{version_of(python)}"
    inside, done = folder / "bin" / "python", folder / "packages.txt"
    if not done.exists() or done.read_text() != "\n".join(packages):
        print(f"making the environment {folder.relative_to(ROOT)}", file=sys.stderr)
        subprocess.run([python, "-m", "venv", "--clear", str(folder)], check=True)
        pip = [str(inside), "-m", "pip", "install", "-qq", "-c", str(ROOT / "constraints.txt")]
        subprocess.run([*pip, *packages], check=True)
        done.write_text("\n".join(packages))
    return str(inside)


def variables() -> dict[str, str]:
    """The environment variables of a measured program: it finds taskcore, and hashes alike."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "COV"))}
    return kept | {"PYTHONPATH": f"{ROOT}{os.pathsep}{TASKCORE}", "PYTHONHASHSEED": "0"}


def version_of(python: str) -> str:
    """The version of an interpreter, such as 3.11.7."""
    code = "import platform; print(platform.python_version())"
    answer = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True)
    return answer.stdout.strip()
