"""CONTRIBUTING.md tells what there is: its map names each file, its table each make target."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_map_has_a_sentence_for_every_file() -> None:
    """Each file of both packages is in the map, with the first sentence of its docstring."""
    rows = [line for line in PAGE.splitlines() if ".py` |" in line]
    expected: list[str] = []
    for path in ROOT.glob("packages/*/src/**/*.py"):
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
        assert docstring, f"{path} has no docstring"
        sentence = docstring.partition("\n\n")[0].replace("\n", " ")
        expected.append(f"| `{'/'.join(path.parts[-2:])}` | {sentence} |")
    assert sorted(rows) == sorted(expected)


def test_make_targets_exist() -> None:
    """Each command in the table of checks is a target of the Makefile."""
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    named = re.findall(r"^(?:\| `)?make ([a-z-]+)", PAGE, flags=re.MULTILINE)
    assert {"test", "smoke", "test-matrix"} <= set(named) <= set(targets)
