"""Tasks without a parent, on both event loops."""

import logging

import anyio

from prism.sdk.background import BackgroundTask


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
