"""Every Python block of the documents is a program that runs.

Each block runs by itself, with top-level `await` allowed, as a reader would paste it. An
`app` that it makes is started and stopped. A block that cannot be run here says so in
its first line, which no reader sees: ```` ```python {test="skip"} ````.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from pytest_examples import CodeExample, find_examples

ROOT = Path(__file__).parents[2]
PAGES = sorted({*ROOT.glob("*.md"), *ROOT.glob("packages/*/*.md"), *ROOT.glob("docs/**/*.md")})
EXAMPLES = [
    example for example in find_examples(*PAGES) if example.prefix_settings().get("test") != "skip"
]


def place(example: CodeExample) -> str:
    """Where a block stands."""
    return f"{example.path.relative_to(ROOT)}:{example.start_line}"


def run(example: CodeExample) -> dict[str, Any]:
    """Run a block; return its names."""
    # So that a traceback shows the line of the page.
    source = "\n" * example.start_line + example.source
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    code = compile(source, place(example), "exec", flags, dont_inherit=True)
    names: dict[str, Any] = {"__name__": "snippet"}
    if code.co_flags & inspect.CO_COROUTINE:
        asyncio.run(eval(code, names))
    else:
        exec(code, names)
    return names


@pytest.fixture(autouse=True)
def same_logging() -> Iterator[None]:
    """Take back what a snippet does to the process's logging."""
    root, ours = logging.getLogger(), logging.getLogger("taskcore")
    before = root.handlers[:], root.level, ours.level
    yield
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    ours.setLevel(before[2])


@pytest.mark.parametrize("example", EXAMPLES, ids=place)
def test_snippet_runs(example: CodeExample) -> None:
    """A block of a page runs by itself; what fails in it fails here."""
    app = run(example).get("app")
    if isinstance(app, FastAPI):
        with TestClient(app):
            pass


def test_pages_have_snippets() -> None:
    """The blocks of the root's and of both packages' README are among those that run."""
    pages = {place(example).partition(":")[0] for example in EXAMPLES}
    assert pages >= {
        "README.md",
        "packages/taskcore/README.md",
        "packages/fastapi-tasks/README.md",
    }
