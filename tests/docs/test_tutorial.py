"""The tutorial, followed: each request gets the answer, and prints the lines, that it shows."""

from __future__ import annotations

import asyncio
import re

import pytest

from taskcore._clock import VirtualClockLoop
from tests.docs.test_snippets import PROGRAMS, ROOT, run
from tests.fastapi_tasks.server import Server

TUTORIAL = ROOT / "docs" / "tutorial.md"
EXCHANGES = re.findall(
    r"```console\n\$ curl (?:-X (\w+) )?'http://127\.0\.0\.1:8000(.*?)'\n(.*?)\n```"
    r"(?:(?:(?!```).)*```text\n(.*?)```)?",
    TUTORIAL.read_text(encoding="utf-8"),
    re.DOTALL,
)
SHOP = next(program for program in PROGRAMS if program[0].path == TUTORIAL)


@pytest.mark.virtual
@pytest.mark.parametrize(("method", "path", "answer", "lines"), EXCHANGES, ids=lambda at: at[:30])
async def test_request_does_what_the_page_shows(
    method: str, path: str, answer: str, lines: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A `curl` of the page gets its answer; the server, stopped at once, prints the lines below."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualClockLoop)
    if path.endswith("/report"):  # its threads are not the loop's, so the clock stands still
        loop.busy = lambda: True
    async with Server(run(SHOP)["app"]) as server:
        connection = server.open(path, method=method or "GET")
        await connection.call
    assert connection.body.decode() == answer
    assert capsys.readouterr().out == lines


def test_page_has_exchanges() -> None:
    """Every request of the page is among those that are made."""
    assert len(EXCHANGES) == TUTORIAL.read_text(encoding="utf-8").count("$ curl")
