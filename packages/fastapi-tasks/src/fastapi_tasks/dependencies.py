"""The names that fastapi-tasks 0.1.0 on PyPI has in a module of this name, for code that moves.

New code imports them from `fastapi_tasks`; docs/howto/from-fastapi-tasks.md shows the way.
"""

from fastapi_tasks import Tasks, add_tasks

__all__ = ["Tasks", "add_tasks"]
