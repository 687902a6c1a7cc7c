"""The parameters are read within the namespace's size limit, and are JSON."""

from typing import TYPE_CHECKING

import trio

from prism.calls.json_text import (
    LARGE_BODY,
    LARGEST_PLAIN,
    is_params,
    is_plainly_params,
    refuse_params,
)
from prism.calls.policies.policy import Policy

if TYPE_CHECKING:
    from prism.calls.call import Call


class ReadParams(Policy):
    """Has the call wait for its params; ``CheckParams`` follows."""

    def enter(self, call: "Call") -> bool:
        return call.read_params(self.namespace.limits.max_payload_bytes)


class CheckParams(Policy):
    """From here on inwards ``call.params`` is one JSON object.

    MessagePack passes as it is: the SDK decodes it by the operation's types.
    """

    def enter(self, call: "Call") -> bool | None:
        call.has_params = True
        if call.stream is not None:
            call.hold(0)  # they are kept for as long as it goes on
        if call.raw:
            return None
        size = len(call.params)
        if size > LARGE_BODY:
            if size <= LARGEST_PLAIN and is_plainly_params(call.params):
                return None
            _check_in_thread(call)
            return True
        _check(call)
        return None


# A function of its own: a closure in a compiled one costs all calls, also those without any.


def _check_in_thread(call: "Call") -> None:
    call.wait_in_task(lambda: trio.to_thread.run_sync(_check, call))


def _check(call: "Call") -> None:
    if not is_params(call.params):
        refuse_params(call.params, call.place)
