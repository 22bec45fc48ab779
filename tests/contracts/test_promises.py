"""Every promise of the contract has a test that names it."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# The ids are those of the table in CONTRIBUTING.md.
IDS = re.findall(r"^\| ([A-Z]\d) \|", (ROOT / "CONTRIBUTING.md").read_text(), flags=re.MULTILINE)
# Cost is measured by `make bench`: a figure in a test of `make test` would prove nothing.
MEASURED = [promise for promise in IDS if promise.startswith("C")]
PROMISES = [promise for promise in IDS if promise not in MEASURED]

TESTS = ROOT / "tests"
PROVEN = {
    promise
    for path in TESTS.rglob("test_*.py")
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    for promise in re.findall(r"\b[A-Z]\d\b", ast.get_docstring(node) or "")
}


@pytest.mark.parametrize("promise", PROMISES)
def test_promise_is_named_by_a_test(promise: str) -> None:
    """The id of each promise stands in the docstring of a test that proves it."""
    assert promise in PROVEN, f"no test's docstring names {promise}"


@pytest.mark.parametrize("promise", MEASURED)
def test_cost_is_held_against_its_promise(promise: str) -> None:
    """The benchmarks make a `Figure` of each promise on cost."""
    held = {
        node.args[0].value
        for path in TESTS.glob("benchmarks/*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "Figure"
        if node.args and isinstance(node.args[0], ast.Constant)
    }
    assert promise in held, f"no figure of tests/benchmarks is held against {promise}"


def test_no_test_names_a_promise_that_is_none() -> None:
    """An id in a docstring is one of the contract's."""
    assert PROVEN - set(IDS) == set()
