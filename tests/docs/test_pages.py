"""What the documents say about the source is so: states, log lines, defaults, links."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from pathlib import Path
from textwrap import indent

import pytest

from taskcore import ScopeState, TaskEvent, TaskScope
from taskcore._attempts import STOP_TIME
from taskcore._drain import ON_DRAIN_TIME
from taskcore._scope import GRACE_PERIOD, SHIELD_TIMEOUT, THREADS
from taskcore._task import MOVES
from taskcore.spi import Instrument, ScopeEvent
from tests.benchmarks.compare import NAMES, QUESTIONS

ROOT = Path(__file__).parents[2]
PAGES = {
    path.relative_to(ROOT): path.read_text(encoding="utf-8")
    for path in sorted(
        {*ROOT.glob("*.md"), *ROOT.glob("packages/*/*.md"), *ROOT.glob("docs/**/*.md")}
    )
}
SOURCES = [path.read_text(encoding="utf-8") for path in ROOT.glob("packages/*/src/*/*.py")]
DESIGN = PAGES[Path("docs/design.md")]
OPERATIONS = PAGES[Path("docs/operations.md")]


def table(page: str, head: str) -> list[list[str]]:
    """The rows under the table head that begins with `head`, cell by cell."""
    rows = page[page.index(f"{head} |") :].partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def test_task_states_are_those_of_the_source() -> None:
    """The table of states in the design is the table of moves."""
    said = {state: set(moves.split(", ")) - {""} for state, moves in table(DESIGN, "| state")}
    assert said == {state.value: {after.value for after in moves} for state, moves in MOVES.items()}


def test_scope_states_are_those_of_the_source() -> None:
    """The design names every state of a scope, in the order in which it passes them."""
    section = DESIGN[DESIGN.index("## Scope states") :]
    said = [state for state, *_ in table(section, "| state")]
    assert said == [state.name.lower() for state in ScopeState]


def test_defaults_are_those_of_the_source() -> None:
    """The design's figures, and their sum, are those in force."""
    said = {name: value for name, value, _ in table(DESIGN, "| option")}
    assert said["`grace_period`"] == f"{GRACE_PERIOD} s"
    assert said["`shield_timeout`"] == f"{SHIELD_TIMEOUT} s"
    assert said["`threads`"] == str(THREADS)
    assert said["time to stop after a cancellation"] == f"{STOP_TIME + 0.25} s"
    assert said["time for an async `on_drain`"] == f"{ON_DRAIN_TIME} s"
    total = GRACE_PERIOD + SHIELD_TIMEOUT + STOP_TIME + 0.25 + ON_DRAIN_TIME
    assert f"= {total} s" in DESIGN


def test_comparison_has_the_rows_of_its_script() -> None:
    """The table of README.md asks what `tests.benchmarks.compare` tries, of the same libraries."""
    rows = table(PAGES[Path("README.md")], f"| | {' | '.join(NAMES.values())}")
    assert [title for title, *_ in rows] == list(QUESTIONS.values())


# -- the log ---------------------------------------------------------------------------------


async def swallow() -> None:
    """Ignores every cancellation, until the loop is closed."""
    while True:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()


async def fail(*args: object) -> None:
    raise ValueError


def fail_at_once(*args: object) -> None:
    raise ValueError


async def cancel_itself() -> None:
    raise asyncio.CancelledError


class FailAtEnds(Instrument):
    """Raises when a task has finished, and when its scope has closed."""

    def __call__(self, event: TaskEvent) -> None:
        if event.kind == "finished":
            raise ValueError

    def on_scope(self, event: ScopeEvent) -> None:
        if event.state is ScopeState.CLOSED:
            raise ValueError


@pytest.mark.virtual
async def test_log_lines_are_those_of_the_page(caplog: pytest.LogCaptureFixture) -> None:
    """I1, I3, S3: every line in operations.md is logged so, and no other line is."""
    caplog.set_level(logging.INFO, "taskcore")
    async with TaskScope(observers=[FailAtEnds()]) as first:
        await first.schedule(fail).wait()
        await first.task(on_error=fail).schedule(fail).wait()
        await first.schedule(cancel_itself).wait()
        first.schedule(swallow)
        first.schedule(asyncio.sleep, 3600)
        await asyncio.sleep(0)
        await first.drain(grace_period=6.0)
    async with TaskScope(on_drain=fail_at_once, limit=1, backlog=0) as second:
        second.schedule(asyncio.sleep, 1.0)
        second.every(60, asyncio.sleep, 0)
        await second.drain()

    lines = {(level, line.strip("`")) for level, line in table(OPERATIONS, "| level")}
    patterns = {
        (level, re.compile(re.sub(r"<.*?>", ".+", re.escape(line) + "$"))) for level, line in lines
    }
    logged = {
        (record.levelname, record.getMessage().partition("\n")[0]) for record in caplog.records
    }
    matched = {
        (level, pattern): {said for at, said in logged if at == level and pattern.match(said)}
        for level, pattern in patterns
    }
    assert [line for line, found in matched.items() if not found] == []
    assert {said for _, said in logged} - set().union(*matched.values()) == set()


# -- links -----------------------------------------------------------------------------------


def anchors(page: str) -> set[str]:
    """What the headings of a page, and the names that the reference shows, are linked by."""
    headings = re.findall(r"^#+ (.+)$", page, re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings
    } | set(re.findall(r"^::: (\S+)$", page, re.MULTILINE))


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_lead_somewhere(page: Path) -> None:
    """A link to a file of the repository finds it, and the heading that it names."""
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", PAGES[page]):
        target, _, anchor = link.partition("#")
        path = (ROOT / page.parent / target).resolve() if target else ROOT / page
        assert path.exists(), f"{page} links to {link}"
        if anchor:
            text = path.read_text(encoding="utf-8")
            # What mkdocstrings shows below these has anchors that the strict build checks.
            shown = tuple(f"{name}." for name in re.findall(r"^::: (\S+)", text, re.MULTILINE))
            assert anchor in anchors(text) or anchor.startswith(shown), f"{page} links to {link}"


def test_source_refers_to_pages_that_exist() -> None:
    """A page that a docstring, comment or message names exists, and so does its heading."""
    named = {
        found for source in SOURCES for found in re.findall(r"docs/[\w/-]+\.md(?:#\w+)?", source)
    }
    assert "docs/design.md#cost" in named
    for link in named:
        target, _, anchor = link.partition("#")
        assert Path(target) in PAGES, link
        assert not anchor or anchor in anchors(PAGES[Path(target)]), link


def test_quotations_stand_in_their_files() -> None:
    """A block that names a file of the examples is a part of it, but for its indentation."""
    fence = re.compile(r'^```python \{[^\n]*file="([^"]+)"\}\n(.*?)^```$', re.MULTILINE | re.DOTALL)
    quoted = [found for page in PAGES.values() for found in fence.findall(page)]
    assert {file for file, _ in quoted} >= {"docs/examples/download.py"}
    for file, block in quoted:
        text = (ROOT / file).read_text(encoding="utf-8")
        assert any(indent(block, " " * width) in text for width in range(0, 17, 4)), block
