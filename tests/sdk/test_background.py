"""Tasks without a parent, on both event loops."""

import logging

import anyio
import anyio.lowlevel
import pytest

from prism.sdk.background import BackgroundTask, run_beside


def test_it_outlives_the_one_who_starts_it_and_ends_when_told(run):
    async def check() -> None:
        seen: list[str] = []
        began = anyio.Event()

        async def work() -> None:
            try:
                began.set()
                await anyio.sleep_forever()
            finally:
                seen.append("ended")

        async def start() -> BackgroundTask:
            return BackgroundTask(work, "work")

        task = await start()
        await began.wait()
        assert seen == []
        await task.aclose()
        assert seen == ["ended"]
        await task.aclose()

    run(check)


def test_what_it_raises_is_logged_and_ends_nothing_else(run, caplog):
    async def check() -> None:
        async def fails() -> None:
            raise ValueError("a bug")

        task = BackgroundTask(fails, "careless")
        with caplog.at_level(logging.ERROR):
            await task.wait()

    run(check)
    assert "the task careless failed" in caplog.text


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_what_runs_beside_ends_with_its_scope(
    backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    ended = []

    async def wait() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.append(True)

    async def fail() -> None:
        raise ValueError("out of reach of any caller")

    async def scenario() -> None:
        scope = run_beside(wait)
        run_beside(fail)
        with anyio.fail_after(10):
            while "out of reach" not in caplog.text:
                await anyio.lowlevel.checkpoint()
            scope.cancel()
            while not ended:
                await anyio.lowlevel.checkpoint()

    anyio.run(scenario, backend=backend)
