from prism.calls.policies import POLICIES, build_stack
from prism.calls.policies.policy import Policy


def test_requests_meet_the_policies_in_the_order_of_the_list(make_namespace):
    handler = build_stack(make_namespace())
    met = []
    while isinstance(handler, Policy):
        met.append(type(handler))
        handler = handler.following
    assert tuple(met) == POLICIES
    assert not hasattr(handler, "following")
