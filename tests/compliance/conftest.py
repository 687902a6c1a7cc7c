"""Each test of a group runs against every plugin that declares it, in this process and in one
of its own. A test module says which group it is about: ``GROUP = "key_value"``.
"""

import json
import os
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.compliance.caller import (
    Caller,
    Process,
    in_this_process,
    initialized,
    over_frames,
)
from tests.compliance.subjects import SUBJECTS, Subject

MODES = ("in_process", "spawned")
RESULTS = "PRISM_COMPLIANCE_RESULTS"
"""The file into which each test's outcome is written, a line of JSON each: for
``scripts/generate_compliance_matrix.py``."""

OpenPlugin = Callable[..., AbstractAsyncContextManager[Caller]]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrize by plugin and mode."""
    if "subject" not in metafunc.fixturenames:
        return
    group = getattr(metafunc.module, "GROUP", "")
    subjects = [one for one in SUBJECTS if not group or group in one.groups]
    cases = [
        pytest.param(subject, mode, id=f"{subject.name}-{mode}", marks=_marks(subject, metafunc))
        for subject in subjects
        for mode in MODES
    ]
    metafunc.parametrize(("subject", "mode"), cases)


def _marks(subject: Subject, metafunc: pytest.Metafunc) -> list[pytest.MarkDecorator]:
    reason = subject.deviations.get(metafunc.function.__name__)
    return [] if reason is None else [pytest.mark.xfail(reason=reason, strict=True)]


@pytest.fixture(scope="session")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Subject], Process]]:
    """One process of each plugin, started when it is first asked for."""
    started: dict[str, Process] = {}

    def process(subject: Subject) -> Process:
        if subject.name not in started:
            directory = tmp_path_factory.mktemp(subject.name)
            started[subject.name] = Process(subject, directory)
        return started[subject.name]

    yield process
    for one in started.values():
        one.end()


@pytest.fixture
async def open_plugin(
    subject: Subject,
    mode: str,
    request: pytest.FixtureRequest,
    processes: Callable[[Subject], Process],
) -> OpenPlugin:
    """``open_plugin()``: one in the test's namespace; ``open_plugin("other")`` in another."""
    setup = subject.setup(request)
    own = f"t{secrets.token_hex(6)}"

    @asynccontextmanager
    async def opened(other: str = "") -> AsyncIterator[Caller]:
        async with AsyncExitStack() as stack:
            if mode == "spawned":
                stream = await processes(subject).connect()
                channel = await stack.enter_async_context(over_frames(stream))
            else:
                channel = await stack.enter_async_context(in_this_process(subject))
            namespace = f"{own}-{other}" if other else own
            yield await stack.enter_async_context(initialized(channel, setup, namespace))

    return opened


@pytest.fixture
async def plugin(open_plugin: OpenPlugin) -> AsyncIterator[Caller]:
    """The plugin, in a namespace that nothing else uses."""
    async with open_plugin() as caller:
        yield caller


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    """Write the outcome down, where that is asked for."""
    report = yield
    path = os.environ.get(RESULTS)
    if path and report.when == "call" and isinstance(item, pytest.Function):
        group = getattr(item.module, "GROUP", "")
        subject = item.callspec.params.get("subject") if hasattr(item, "callspec") else None
        if group and subject is not None:
            outcome = "deviation" if hasattr(report, "wasxfail") else report.outcome
            with Path(path).open("a") as file:
                file.write(json.dumps([group, item.originalname, subject.name, outcome]) + "\n")
    return report
