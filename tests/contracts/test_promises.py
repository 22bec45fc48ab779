"""Every promise of the contract has a test that names it."""

import ast
import re
from pathlib import Path

import pytest

PROMISES = (  # a section is listed once its tests are written
    *("T1", "T2", "T3", "T4", "T5", "T6", "T7"),
    *("I1", "I2", "I3", "I4", "I5", "I6", "I7", "I8"),
    *("L1", "L2", "L3", "L4"),
    *("S1", "S2", "S3", "S4", "S5", "S6"),
)

PROVEN = {
    promise
    for path in Path(__file__).parents[1].rglob("test_*.py")
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    for promise in re.findall(r"\b[A-Z]\d\b", ast.get_docstring(node) or "")
}


@pytest.mark.parametrize("promise", PROMISES)
def test_promise_is_named_by_a_test(promise: str) -> None:
    """The id of each promise stands in the docstring of a test that proves it."""
    assert promise in PROVEN, f"no test's docstring names {promise}"
