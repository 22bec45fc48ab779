"""The tests that docs/testing.md shows pass, with the settings that it shows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pytest_examples import CodeExample, find_examples

# Here, or each run of a suite imports its own.
import fastapi_tasks.testing  # noqa: F401  # pyright: ignore[reportUnusedImport]

PAGE = Path(__file__).parents[2] / "docs" / "testing.md"
BLOCKS = list(find_examples(PAGE))
(CONFTEST,) = [block.source for block in BLOCKS if "pytest_plugins" in block.source]
(SETTINGS,) = re.findall(r"^```toml\n(.*?)^```", PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE)
SUITES = [block for block in BLOCKS if "def test_" in block.source]


@pytest.mark.parametrize("suite", SUITES, ids=lambda suite: f"line {suite.start_line}")
def test_suite_passes(pytester: pytest.Pytester, suite: CodeExample) -> None:
    """A block that defines tests passes as the file of a suite that has the page's settings."""
    pytester.makeconftest(CONFTEST)
    pytester.makepyprojecttoml(SETTINGS)
    pytester.makepyfile(suite.source)
    result = pytester.runpytest("-p", "no:hypothesispytest")  # it takes a second to load
    result.assert_outcomes(passed=suite.source.count("def test_"))


def test_page_has_suites() -> None:
    """There are blocks with tests: one for each way to test."""
    assert len(SUITES) >= 6
