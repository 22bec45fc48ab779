"""A file of facts, one JSON object on each line."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


class Journal:
    """The lines of one file. A plain class: `add` runs in a thread when it is a task."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._path.touch()

    def add(self, event: str, **facts: object) -> None:
        """Append one line."""
        line = json.dumps({"at": datetime.now(UTC).isoformat(), "event": event, **facts})
        with self._path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def read(self) -> list[dict[str, Any]]:
        """Return all lines, oldest first."""
        return [json.loads(line) for line in self._path.read_text(encoding="utf-8").splitlines()]
