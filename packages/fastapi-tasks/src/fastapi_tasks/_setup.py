"""`add_tasks`: put the ASGI layer of taskcore around a FastAPI app."""

from __future__ import annotations

from typing import Unpack
from weakref import WeakKeyDictionary, ref

from fastapi import FastAPI

from fastapi_tasks._outcome import DISCONNECT_ERRORS, noting
from fastapi_tasks.errors import FastAPITasksSetupError, FastAPITasksUninitializedAppError
from taskcore.asgi import ASGIApp, TasksMiddleware
from taskcore.spi import ScopeOptions

# What `add_tasks` has put around an app; `None` until the app is called for the first time.
_apps: WeakKeyDictionary[FastAPI, ref[TasksMiddleware] | None] = WeakKeyDictionary()


def add_tasks(app: FastAPI, **options: Unpack[ScopeOptions]) -> None:
    """Give `app` tasks. Call it once, before the app starts; the order of middleware is free.

    Tasks are drained when the server asks for shutdown, before any lifespan teardown.

    Args:
        app: The FastAPI app; the outermost one if apps are mounted.
        **options: Those of `taskcore.TaskScope`: `config`, `limit`, `backlog`,
            `grace_period`, `shield_timeout`, `on_drain` and the others, with the same
            defaults. `name` is the app's title.

    Raises:
        FastAPITasksSetupError: `app` has tasks already, has started, or is no FastAPI app.
        ConfigError: An option makes no sense.
    """
    if not isinstance(app, FastAPI):
        raise FastAPITasksSetupError(
            f"cannot add tasks to {type(app).__name__}: call add_tasks(app) with the FastAPI app; "
            "its routers and mounted apps share the tasks"
        )
    if app in _apps:
        raise FastAPITasksSetupError(
            f"app '{app.title}' has tasks already: call add_tasks once, with all options"
        )
    if app.middleware_stack is not None:
        raise FastAPITasksSetupError(
            f"app '{app.title}' has started: call add_tasks(app) right after app = FastAPI(...)"
        )

    options = {"name": app.title, **options}

    def wrap(inner: ASGIApp) -> TasksMiddleware:
        return TasksMiddleware(inner, disconnect_errors=DISCONNECT_ERRORS, **options)

    wrap(app)  # so that a wrong option is refused here
    build = app.build_middleware_stack

    def build_with_tasks() -> TasksMiddleware:
        handlers = app.exception_handlers
        app.exception_handlers = {kind: noting(handler) for kind, handler in handlers.items()}
        try:
            middleware = wrap(build())
        finally:
            app.exception_handlers = handlers
        _apps[app] = ref(middleware)
        return middleware

    # Outermost, also of middleware that is added later: the moments are exact, and the
    # shutdown message is seen before any lifespan hears of it.
    app.build_middleware_stack = build_with_tasks  # type: ignore[method-assign]
    _apps[app] = None


def middleware_of(app: FastAPI) -> TasksMiddleware | None:
    """What `add_tasks` has put around `app`; `None` before the app is called.

    Raises:
        FastAPITasksUninitializedAppError: The app has no `add_tasks`.
    """
    if not isinstance(app, FastAPI) or app not in _apps:
        raise FastAPITasksUninitializedAppError(
            f"this {type(app).__name__} has no tasks: call add_tasks(app) after "
            "app = FastAPI(...), and pass that app, the outermost one if it is mounted"
        )
    middleware = _apps[app]
    return None if middleware is None else middleware()
