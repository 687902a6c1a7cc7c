"""The policies that every call passes, in the order in which it meets them.

To add one: write ``class X(Policy)`` in a file of its own, and put it in
``POLICIES`` where it belongs, with the reason for the place.

Around all of them, in the front end, is the call's record: refused calls are
logged and counted too. Innermost is the call to the plugin: ``Invoke``, or
``InvokeStream`` where the front end carries a stream.
"""

from collections.abc import Awaitable

from prism.calls.namespace import Namespace
from prism.calls.policies.await_plugin import AwaitPlugin
from prism.calls.policies.deadline import Deadline
from prism.calls.policies.in_flight import InFlightLimit
from prism.calls.policies.invoke import Invoke
from prism.calls.policies.invoke_stream import InvokeStream
from prism.calls.policies.policy import Policy
from prism.calls.policies.read_params import ReadParams
from prism.calls.policies.retry import Retry
from prism.calls.policies.stream_limit import StreamLimit
from prism.calls.request import Handler, Reply, Request

POLICIES: tuple[type[Policy], ...] = (
    # First, so that the client gets its answer in time whatever any other does.
    Deadline,
    # Before the body, so that refusing is cheap, and so that the limit also
    # bounds the memory that bodies take.
    InFlightLimit,
    StreamLimit,
    # Before the lease on an instance, so that a slow client cannot hold up a drain.
    ReadParams,
    # After the body, so that from here to the lease nothing else takes time.
    AwaitPlugin,
    # Innermost: what it repeats is the call to the plugin and nothing else.
    Retry,
)


def build_stack(namespace: Namespace) -> Handler:
    """All policies for ``namespace``, composed once and for all of its calls."""
    unary, streaming = Invoke(namespace), InvokeStream(namespace)

    def invoke(request: Request) -> Awaitable[Reply]:
        return unary(request) if request.stream is None else streaming(request)

    handler: Handler = invoke
    for policy in reversed(POLICIES):
        handler = policy(namespace, handler)
    return handler
