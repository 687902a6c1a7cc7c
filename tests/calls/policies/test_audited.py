import pytest

from prism.calls.policies.audited import Audited
from prism.calls.router import Router
from prism.contract.errors import AuditUnavailable


async def test_no_call_runs_while_it_cannot_be_recorded(make_namespace, make_call, ask):
    why = ""
    namespace = make_namespace()
    Router([namespace], audit_refusal=lambda: why)
    await ask(namespace)
    why = "the disk is full"
    with pytest.raises(AuditUnavailable, match="cannot be recorded: the disk is full"):
        await ask(namespace)
    with pytest.raises(AuditUnavailable):
        make_call(namespace, body=None).precheck()  # before its body is read
    why = ""
    await ask(namespace)


async def test_without_an_audit_log_there_is_no_such_policy(make_namespace):
    namespace = make_namespace()
    Router([namespace])
    assert not any(isinstance(policy, Audited) for policy in namespace.policies)
