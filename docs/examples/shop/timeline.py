"""When things happened in the last requests, in milliseconds from each request's start.

A middleware notes the moments of the request, an observer those of the tasks that were
scheduled in it.
"""

import time
from collections import deque
from contextvars import ContextVar

from pydantic import BaseModel, PrivateAttr
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from taskcore import TaskEvent


class TaskMoments(BaseModel):
    """One task. `started` stays `None` if it never began."""

    name: str
    state: str
    scheduled: float
    started: float | None = None
    finished: float | None = None


class RequestMoments(BaseModel):
    """One request and its tasks, in the order in which they were scheduled."""

    request: str
    status: int | None = None
    endpoint_returned: float | None = None
    response_out: float | None = None
    tasks: list[TaskMoments] = []
    # Not the loop's clock, which on uvloop counts whole milliseconds.
    _began: float = PrivateAttr(default_factory=time.perf_counter)

    def now(self) -> float:
        """Milliseconds since the request began."""
        return round((time.perf_counter() - self._began) * 1000, 3)


current_request: ContextVar[RequestMoments | None] = ContextVar("current_request", default=None)


class Timeline:
    """The last `length` requests that scheduled tasks, oldest first."""

    def __init__(self, length: int = 20) -> None:
        self.requests: deque[RequestMoments] = deque(maxlen=length)
        self._unfinished: dict[int, tuple[RequestMoments, TaskMoments]] = {}

    def observe(self, event: TaskEvent) -> None:
        """Note what happened to a task; given to `add_tasks(observers=[...])`."""
        task = event.task
        if event.kind == "scheduled":
            # Tasks, and what they schedule, have the context of the request they belong to.
            request = current_request.get()
            if request is not None:
                if not request.tasks:
                    self.requests.append(request)
                state = task.state.value
                moments = TaskMoments(name=task.name, state=state, scheduled=request.now())
                request.tasks.append(moments)
                self._unfinished[task.id] = request, moments
        elif task.id in self._unfinished:
            request, moments = self._unfinished[task.id]
            moments.state = task.state.value
            if event.kind == "started":
                moments.started = request.now()
            else:
                moments.finished = request.now()
                del self._unfinished[task.id]


class TimelineMiddleware:
    """Notes when the endpoint has returned and when the last byte has gone out."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, and note its moments."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = RequestMoments(request=f"{scope['method']} {scope['path']}")

        async def send_and_note(message: Message) -> None:
            if message["type"] == "http.response.start":
                request.status = message["status"]
                request.endpoint_returned = request.now()
            await send(message)
            if message["type"] == "http.response.body" and not message.get("more_body"):
                request.response_out = request.now()

        token = current_request.set(request)
        try:
            await self._app(scope, receive, send_and_note)
        finally:
            current_request.reset(token)
