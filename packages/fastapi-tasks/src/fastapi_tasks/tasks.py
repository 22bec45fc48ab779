"""The names that fastapi-tasks 0.1.0 on PyPI has in a module of this name, for code that moves.

New code imports them from `fastapi_tasks`; docs/howto/from-fastapi-tasks.md shows the way.
"""

from typing import TypeAlias

from fastapi_tasks import RequestTasks, Task, TaskConfig, TaskErrorHandler
from taskcore import Phase

__all__ = ["Task", "TaskConfig", "TaskErrorHandler", "TasksBatch", "TasksScheduler"]

TasksScheduler: TypeAlias = RequestTasks
"""What an endpoint gets as `tasks`."""
TasksBatch: TypeAlias = Phase
"""What `tasks.after_route` and `tasks.after_response` are."""
