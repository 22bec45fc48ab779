"""Who may import whom, and where: the house rules, checked by reading the source."""

import ast
import sys
from collections.abc import Iterator
from importlib.util import resolve_name
from pathlib import Path

import pytest

# A module of taskcore imports only modules with a lower number; what is imported for type
# checkers alone does not count.
LAYERS = {
    "errors": 0,
    "_clock": 0,
    "_frozen": 0,
    "_state": 0,
    "_call": 2,
    "_config": 1,
    "_shield": 1,
    "_threads": 1,
    "_executors": 3,
    "_processes": 3,
    "_task": 3,
    "_lane": 4,
    "_log": 4,
    "_scheduler": 4,
    "_every": 5,
    "_observe": 5,
    "_phase": 5,
    "_attempts": 5,
    "_run": 6,
    "_children": 7,
    "_books": 8,
    "_intake": 9,
    "_drain": 10,
    "_statistics": 10,
    "_scope": 11,
    "spi": 12,
    "asgi": 12,
    "__init__": 13,
    "testing": 13,
    "pytest_plugin": 13,
    "otel": 13,
    "prometheus": 13,
}

# Documented by Python for use as they are, underscore and all.
DOCUMENTED = {"asyncio._register_task", "asyncio._unregister_task", "sys._current_frames"}

# What a package may import beside itself and the standard library.
# A module that needs an extra gets an entry of its own, under its full name.
THIRD_PARTY = {
    "taskcore": set[str](),
    "taskcore.pytest_plugin": {"pytest", "pytest_asyncio"},
    "taskcore.otel": {"opentelemetry"},
    "taskcore.prometheus": {"prometheus_client"},
    "fastapi_tasks": {"fastapi", "starlette", "taskcore", "typing_extensions"},
    "fastapi_tasks.testing": {"anyio", "fastapi", "taskcore"},  # anyio is Starlette's own
}

MOST_LINES = {"taskcore": 300, "fastapi_tasks": 200}

SOURCES = {
    ".".join(path.relative_to(src).with_suffix("").parts): path.read_text(encoding="utf-8")
    for src in Path(__file__).parents[2].glob("packages/*/src")
    for path in sorted(src.rglob("*.py"))
}
CORE = [module for module in SOURCES if module.startswith("taskcore.")]


class RunTime(ast.NodeTransformer):
    """Leaves out what stands under `if TYPE_CHECKING:`."""

    def visit_If(self, node: ast.If) -> ast.AST | None:
        return None if ast.unparse(node.test) == "TYPE_CHECKING" else self.generic_visit(node)


def imported(tree: ast.AST, module: str) -> Iterator[tuple[str, str]]:
    """Full and local name of everything imported; `from a.b import c as d` is `a.b.c`, `d`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, alias.asname or alias.name.partition(".")[0]
        elif isinstance(node, ast.ImportFrom):
            origin = "." * node.level + (node.module or "")
            origin = resolve_name(origin, module.rpartition(".")[0])
            for alias in node.names:
                yield f"{origin}.{alias.name}", alias.asname or alias.name


def is_private(dotted: str) -> bool:
    """Whether any part has a leading underscore; `__future__` and its like do not count."""
    return any(part.startswith("_") and not part.endswith("__") for part in dotted.split("."))


@pytest.mark.parametrize("module", CORE)
def test_core_module_imports_only_from_lower_layers(module: str) -> None:
    """A module of the core has a layer, and imports from lower ones only."""
    name = module.removeprefix("taskcore.")
    assert name in LAYERS, f"{module} has no layer: give it one in LAYERS"
    for target, _ in imported(RunTime().visit(ast.parse(SOURCES[module])), module):
        package, _, rest = target.partition(".")
        if package == "taskcore":
            other = rest.partition(".")[0]
            other = other if f"taskcore.{other}" in SOURCES else "__init__"
            layer = LAYERS.get(other, sys.maxsize)
            assert layer < LAYERS[name], f"{module} imports {target}, which is not below it"


@pytest.mark.parametrize("module", SOURCES)
def test_module_imports_only_declared_dependencies(module: str) -> None:
    """An import is of the standard library, the package itself or a dependency it declares."""
    package = module.partition(".")[0]
    allowed = {package, *sys.stdlib_module_names, *THIRD_PARTY.get(module, THIRD_PARTY[package])}
    for target, _ in imported(ast.parse(SOURCES[module]), module):
        assert target.partition(".")[0] in allowed, f"{module} imports {target}"


@pytest.mark.parametrize("module", SOURCES)
def test_module_uses_no_private_name_of_another_package(module: str) -> None:
    """No underscore name of another package is used, by import or as an attribute of one."""
    package, tree = module.partition(".")[0], ast.parse(SOURCES[module])
    foreign = {
        local: target
        for target, local in imported(tree, module)
        if target.partition(".")[0] != package
    }
    for target in foreign.values():
        assert not is_private(target), f"{module} imports {target}; is it missing in taskcore.spi?"
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            owner = ast.unparse(node.value)
            of_foreign = owner.partition(".")[0] in foreign and "(" not in owner
            of_foreign &= f"{owner}.{node.attr}" not in DOCUMENTED
            assert not of_foreign, f"{module}:{node.lineno} uses {owner}.{node.attr}"


@pytest.mark.parametrize("module", SOURCES)
def test_module_imports_outside_functions(module: str) -> None:
    """No import stands inside a function, where it would hide a cycle."""
    for node in ast.walk(ast.parse(SOURCES[module])):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            hidden = [target for target, _ in imported(node, module)]
            assert not hidden, f"{module}:{node.lineno} {node.name}() imports {hidden}"


@pytest.mark.parametrize("module", SOURCES)
def test_module_is_short(module: str) -> None:
    """A core module past its limit of code asks to be split, an adapter module to be thinner."""
    tree = ast.parse(SOURCES[module])
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree):
        if isinstance(node, documented) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    lines = len(ast.unparse(tree).splitlines())
    assert lines <= MOST_LINES[module.partition(".")[0]], f"{module} has {lines} lines"
