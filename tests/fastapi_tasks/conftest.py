"""What the adapter's tests start from."""

import importlib
import warnings

import pytest
from fastapi import FastAPI

from fastapi_tasks import add_tasks
from tests.helpers import Journal

with warnings.catch_warnings():
    # Starlette 0.50, the oldest supported one, uses a name that anyio deprecates by now.
    warnings.simplefilter("ignore", DeprecationWarning)
    importlib.import_module("starlette.testclient")  # so that test modules can import it


@pytest.fixture
def journal() -> Journal:
    """Where the test's tasks and its server write down what happens."""
    return Journal()


@pytest.fixture
def app() -> FastAPI:
    """An app that has tasks, and no route yet."""
    app = FastAPI()
    add_tasks(app)
    return app
