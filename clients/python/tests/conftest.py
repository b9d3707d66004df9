"""Runs async tests, and looks for what they leave behind."""

import asyncio
import inspect
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

from imgo_client._aio import TASK_PREFIX

LIMIT = 60.0
"""The bound of a test, in seconds. It is no measure: the machine may be slow."""


# Time is no measure here, and a database of examples would be another file in the folder.
hypothesis_settings.register_profile("shared", deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
hypothesis_settings.load_profile("shared")


def left() -> list[str]:
    """Return the names of the library's tasks and threads."""
    names = [task.get_name() for task in asyncio.all_tasks()] + [thread.name for thread in threading.enumerate()]
    return [name for name in names if name.startswith(TASK_PREFIX)]


async def _run(test: Any, arguments: dict[str, Any]) -> None:
    task = asyncio.ensure_future(test(**arguments))
    done, _ = await asyncio.wait({task}, timeout=LIMIT)
    if not done:
        stack = task.get_stack()
        task.cancel()
        await asyncio.wait({task}, timeout=10)
        pytest.fail(f"the test did not end within {LIMIT} s: {stack}")
    task.result()
    for _ in range(1000):  # a thread may be about to end
        if not left():
            return
        await asyncio.sleep(0.01)
    pytest.fail(f"the test left {left()}")


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    asyncio.run(_run(pyfuncitem.obj, arguments))
    return True
