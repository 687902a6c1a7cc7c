"""A new instance on trial: it gets a share of the calls until it is judged (``canary``)."""

import trio

from prism.streams.errors import LaunchError
from prism.supervision.canary import Canary, Verdict, judge
from prism.supervision.generation import Generation
from prism.supervision.keeper import Keeper
from prism.supervision.sample import Sample

JUDGE_EVERY = 0.25
"""Seconds between two looks."""


async def try_out(keeper: Keeper, canary: Canary, old: Generation, new: Generation) -> str:
    """Give ``new`` its share of the calls beside ``old``; returns why it shall take over.

    However it ends, no call goes to ``new`` any more that was not taking over.

    Raises:
        LaunchError: ``new`` is to be rolled back; the message is the reason.
    """
    first, second = old.instance, new.instance
    if first is None or second is None:
        return ""  # there is nothing to compare it with, and nothing to lose
    slot = keeper.slot
    first.sample, second.sample = Sample(), Sample()
    began = trio.current_time()
    keeper.journal.step("canary", new.id, f"it gets {canary.share:.0%} of the calls")
    slot.canary, slot.share = second, canary.share
    try:
        while True:
            await trio.sleep(JUDGE_EVERY)
            if keeper.stopping:
                raise LaunchError("the proxy is stopping")
            if not new.serving:
                await new.wait_ended()
                raise LaunchError(f"on trial, it left: {new.error}")
            if not first.takes_calls:
                reason = "the old instance is gone, so it takes over"
                break
            seconds = trio.current_time() - began
            verdict, reason = judge(canary, first.sample, second.sample, seconds)
            if verdict is Verdict.ROLL_BACK:
                raise LaunchError(reason)
            if verdict is Verdict.PROMOTE:
                break
    finally:
        slot.canary = None
        first.sample = second.sample = None
    keeper.journal.step("canary", new.id, f"promoted: {reason}")
    return reason
