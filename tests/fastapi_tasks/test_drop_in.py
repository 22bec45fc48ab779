"""What fastapi-tasks 0.1.0 on PyPI lets its users write runs on ours, but for a table."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.docs.test_pages import PAGES, table
from tests.fastapi_tasks.drop_in import PROGRAMS
from tests.fastapi_tasks.drop_in_differences import DIFFERENCES, Difference


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_program_runs(program: Callable[[], None]) -> None:
    """A program that was written for 0.1.0 does here what it does there."""
    program()


@pytest.mark.parametrize("difference", DIFFERENCES, ids=lambda row: row.is_theirs.__name__)
def test_difference(difference: Difference) -> None:
    """What is said to differ does."""
    assert not difference.is_theirs()


def test_page_has_every_difference() -> None:
    """The table of the page that shows the way has the rows that are tried, and no other."""
    rows = table(PAGES[Path("docs/howto/from-fastapi-tasks.md")], "| what | 0.1.0 | here")
    tried = [[row.title, row.theirs, row.ours] for row in DIFFERENCES]
    assert [row[:3] for row in rows] == tried
    assert all(reason for *_, reason in rows)
