import msgspec
import pytest
from msgspec.structs import replace

from prism.access.identity import Identity
from prism.access.permissions import AccessTable
from prism.calls.policies import build_policies
from prism.calls.policies.authorize import Authorize
from prism.config.types import NamespaceAccess
from prism.contract.errors import Forbidden, PluginUnavailable
from prism.contract.messages import OperationAccess, OperationDeclaration


@pytest.fixture
def guarded(make_namespace):
    """A namespace in which ``reader`` may read: ``get`` takes that, ``set`` is undeclared."""
    namespace = make_namespace()
    rules = {"allow": [{"who": ["reader"], "permissions": ["read"]}]}
    namespace.access = AccessTable("kv", msgspec.convert(rules, NamespaceAccess))
    namespace.policies = build_policies(namespace)
    namespace.slot.current.operations["get"] = OperationDeclaration(
        name="get", access=OperationAccess.READ
    )
    return namespace


def called_by(make_call, namespace, name, operation):
    call = make_call(namespace, operation)
    call.identity = Identity(name)
    return call


async def test_before_the_body(guarded, make_call):
    policy = Authorize(guarded)
    policy.enter(called_by(make_call, guarded, "reader", "get"))
    with pytest.raises(Forbidden, match="takes the permission write"):
        policy.enter(called_by(make_call, guarded, "reader", "set"))
    with pytest.raises(Forbidden, match="no namespace 'kv' is open"):
        policy.enter(called_by(make_call, guarded, "eve", "get"))
    with pytest.raises(Forbidden):
        policy.enter(make_call(guarded, "get"))  # anonymous
    # what is not known yet: the operation comes with the body
    policy.enter(called_by(make_call, guarded, "reader", ""))
    with pytest.raises(Forbidden):
        policy.enter(called_by(make_call, guarded, "eve", ""))


async def test_without_authentication_everybody_may(make_namespace, make_call):
    namespace = make_namespace()
    Authorize(namespace).enter(make_call(namespace, "set"))
    assert not any(isinstance(policy, Authorize) for policy in namespace.policies)


@pytest.mark.parametrize("operation", ["set", "get"])
async def test_the_instance_has_the_last_word(guarded, make_call, operation):
    """The operation comes with the body, or the instance declares another access."""
    call = called_by(make_call, guarded, "reader", "")

    def read_params(limit):
        call.operation = operation
        call.params = b"{}"
        return False

    type(call).read_params, before = lambda _, limit: read_params(limit), type(call).read_params
    try:
        call.proceed()
    finally:
        type(call).read_params = before
    if operation == "get":
        assert await call.outcome() == b"{}"
        return
    with pytest.raises(Forbidden, match="takes the permission write"):
        await call.outcome()
    assert guarded.slot.current.channel.requests == []
    assert guarded.in_flight == 0


async def test_what_is_known_of_a_plugin_that_restarts_still_decides(guarded, make_call):
    guarded.slot.clear(guarded.slot.current, "it restarts")
    call = called_by(make_call, guarded, "reader", "set")
    call.proceed()
    with pytest.raises(Forbidden):
        await call.outcome()
    call = called_by(make_call, guarded, "reader", "get")
    guarded.config = replace(guarded.config, while_unavailable="fail")
    call.proceed()
    with pytest.raises(PluginUnavailable):
        await call.outcome()
