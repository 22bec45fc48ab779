"""Every Python block of the documents, and every example of a docstring, is a program that runs.

A block runs by itself, with top-level `await` allowed, as a reader would paste it. What else
there is to know stands in its first line, where no reader sees it:

    ```python {test="skip"}         it is left out
    ```python {test="continue"}     it goes on where the program before it ended; its tests are run
    ```python {module="shop"}       what continues it may import it as the module `shop`
"""

from __future__ import annotations

import ast
import asyncio
import importlib
import inspect
import logging
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from pytest_examples import find_examples

ROOT = Path(__file__).parents[2]
PAGES = sorted({*ROOT.glob("*.md"), *ROOT.glob("packages/*/*.md"), *ROOT.glob("docs/**/*.md")})
SOURCES = sorted(ROOT.glob("packages/*/src/*/*.py"))


class Block(NamedTuple):
    """One piece of code, and where it stands: the line before its first."""

    path: Path
    line: int
    source: str
    module: str | None = None


def programs() -> Iterator[list[Block]]:
    """The fenced blocks of pages and docstrings, each with those that continue it."""
    program: list[Block] = []
    for example in find_examples(*PAGES, *SOURCES):
        settings = example.prefix_settings()
        how = settings.get("test")
        if how == "skip":
            continue
        if how != "continue" and program:
            yield program
            program = []
        start = example.start_line
        program.append(Block(example.path, start, example.source, settings.get("module")))
    yield program


def docstring_examples() -> Iterator[list[Block]]:
    """What stands under `Example:` in the docstrings of both packages."""
    for path in SOURCES:
        source = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                text = ast.get_docstring(node, clean=False)
                found = text and re.search(r"^( *)Example:\n((?:\1 +.*\n|\n)+)", text, re.MULTILINE)
                if text and found and "```" not in found[2]:
                    before = text[: found.start(2)].count("\n")
                    line = node.body[0].lineno - 1 + before
                    yield [Block(path, line, textwrap.dedent(found[2]))]


PROGRAMS = [*programs(), *docstring_examples()]


async def fetch(url: str, *, retries: int = 0) -> str:
    """Stands for a function of the reader's, in docstrings."""
    return f"the page at {url}"


def place(program: list[Block]) -> str:
    """Where a program begins."""
    return f"{program[0].path.relative_to(ROOT)}:{program[0].line}"


def run(program: list[Block]) -> dict[str, Any]:
    """Run its blocks, one after the other; return their names."""
    names: dict[str, Any] = {"__name__": "snippet"}
    if program[0].path.suffix == ".py":  # an example in a docstring is short: it leaves these out
        names |= {"asyncio": asyncio, "app": FastAPI(), "fetch": fetch, "url": "example.org"}
        module = ".".join(program[0].path.with_suffix("").parts[-2:]).removesuffix(".__init__")
        names |= vars(importlib.import_module(module))
    for block in program:
        # So that a traceback shows the line of the page.
        source = "\n" * block.line + block.source
        flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        code = compile(source, str(block.path), "exec", flags, dont_inherit=True)
        if code.co_flags & inspect.CO_COROUTINE:
            asyncio.run(eval(code, names))
        else:
            exec(code, names)
        if block.module is not None:
            sys.modules[block.module] = imported = ModuleType(block.module)
            vars(imported).update(names)
    return names


@pytest.fixture(autouse=True)
def same_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Take back what a snippet does to the process's logging and modules; its files go apart."""
    monkeypatch.chdir(tmp_path)
    root, ours = logging.getLogger(), logging.getLogger("taskcore")
    before = root.handlers[:], root.level, ours.level
    yield
    for module in {block.module for program in PROGRAMS for block in program if block.module}:
        sys.modules.pop(module, None)
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    ours.setLevel(before[2])


@pytest.mark.parametrize("program", PROGRAMS, ids=place)
def test_snippet_runs(program: list[Block]) -> None:
    """A program of a page or docstring runs by itself; what fails in it fails here."""
    names = run(program)
    for name, test in list(names.items()):
        if name.startswith("test_") and len(program) > 1:
            test()
    app = names.get("app")
    if isinstance(app, FastAPI):
        with TestClient(app):
            pass


def test_snippets_are_found() -> None:
    """Pages, docstrings, and blocks that continue others are among what runs."""
    found = {place(program).partition(":")[0] for program in PROGRAMS}
    assert found >= {
        "README.md",
        "docs/tutorial.md",
        "docs/howto/scripts.md",
        "packages/taskcore/README.md",
        "packages/taskcore/src/taskcore/_scope.py",
        "packages/fastapi-tasks/README.md",
    }
    assert any(len(program) > 1 for program in PROGRAMS)
