"""`docs/benchmarks.md` and the table of promised figures, from a run's results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.benchmarks import cost, imports, latency, memory, request, scale, throughput
from tests.benchmarks.promises import Figure
from tests.benchmarks.tables import Row, markdown_table

HEAD = ("promise", "what is compared", "where", "measured", "promised", "kept")

PAGE = Path(__file__).with_name("page.md")
"""The text around the tables."""


def figures(results: dict[str, Any]) -> list[Figure]:
    """Every promised figure of a run."""
    found: list[Figure] = []
    for python, parts in results["pythons"].items():
        found += cost.figures(parts["cost"], python)
        found += request.figures(parts["request"], python)
    main = next(iter(results["pythons"]))
    found += scale.figures(results["scale"], main)
    found += memory.figures(results["memory"], main)
    found += imports.figures(results["imports"], main)
    return found


def figure_rows(results: dict[str, Any]) -> list[Row]:
    """The table of promised figures."""
    return [HEAD, *(figure.cells() for figure in figures(results))]


def page(results: dict[str, Any]) -> str:
    """The page, in Markdown."""

    def by_python(part: str, rows: Any) -> str:
        return "\n\n".join(
            f"Python {python}:\n\n{markdown_table(rows(parts[part]))}"
            for python, parts in results["pythons"].items()
        )

    return PAGE.read_text().format(
        reference="fastapi-tasks 0.1.0",
        machine=results["machine"],
        figures=markdown_table(figure_rows(results)),
        costs=by_python("cost", cost.rows),
        requests=by_python("request", request.rows),
        connections=throughput.CONNECTIONS,
        throughput=markdown_table(throughput.rows(results["throughput"])),
        fill=markdown_table(scale.rows(results["scale"]["fill"])),
        drain=markdown_table(scale.rows(results["scale"]["drain"])),
        memory=markdown_table(memory.rows(results["memory"])),
        blocking=latency.BLOCKING,
        calls=latency.CALLS,
        latency=markdown_table(latency.rows(results["latency"])),
        **{key: results["memory"]["left"][key] for key in ("garbage", "blocks")},
    )
