"""What the packages export: names that exist and are documented, and imports that stay light."""

import ast
import importlib
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

SOURCES = {
    f"{path.parent.name}.{path.stem}".removesuffix(".__init__"): path.read_text(encoding="utf-8")
    for path in sorted(Path(__file__).parents[2].glob("packages/*/src/*/*.py"))
}
PUBLIC = [module for module in SOURCES if "._" not in module]
# What the module of an extra needs; the environment of the core alone does not have it.
EXTRAS = {"taskcore.otel": "opentelemetry", "taskcore.prometheus": "prometheus_client"}


def documented(source: str) -> set[str]:
    """Classes and functions with a docstring, and variables with a string right after them."""
    body = ast.parse(source).body
    names: set[str] = set()
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            names |= {node.name} if ast.get_docstring(node) else set()
    for node, after in pairwise(body):
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            if isinstance(node, ast.Assign):
                names |= {ast.unparse(target) for target in node.targets}
            elif isinstance(node, ast.AnnAssign):
                names.add(ast.unparse(node.target))
    return names


@pytest.mark.parametrize("module", PUBLIC)
def test_exported_names_exist_and_are_documented(module: str) -> None:
    """Every name in a public module's `__all__` exists and has a docstring where it is defined."""
    if module in EXTRAS:
        pytest.importorskip(EXTRAS[module])
    namespace = vars(importlib.import_module(module))
    exported = set(namespace["__all__"])
    assert exported - set(namespace) == set()
    assert exported - set().union(*map(documented, SOURCES.values())) == set()


def test_importing_taskcore_stays_in_the_standard_library() -> None:
    """`import taskcore` brings neither a third-party module nor a test helper along."""
    code = "import sys; old = set(sys.modules); import taskcore; print(*set(sys.modules) - old)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = set(run.stdout.split())
    assert {name.partition(".")[0] for name in modules} - sys.stdlib_module_names == {"taskcore"}
    assert modules.isdisjoint({"taskcore.testing", "taskcore.pytest_plugin", "taskcore._clock"})


def test_importing_fastapi_tasks_brings_no_test_helper() -> None:
    """`import fastapi_tasks` brings neither its own test helpers nor those of the core along."""
    code = "import sys; import fastapi_tasks; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"fastapi_tasks.testing", "taskcore.testing"}.isdisjoint(run.stdout.split())
