import resource

import pytest

from prism.process.descriptors import LEAST, MOST, TooFewDescriptors, raise_limit


@pytest.mark.parametrize(
    ("soft", "hard", "raised"),
    [
        (1024, 20_000, 20_000),
        (1024, 2**30, MOST),
        (1024, resource.RLIM_INFINITY, MOST),
        (2**30, 2**30, 2**30),
        (4096, 4096, 4096),
        (LEAST, LEAST, LEAST),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, resource.RLIM_INFINITY),
    ],
)
def test_the_limit_is_raised_as_far_as_the_hard_one_lets(monkeypatch, soft, hard, raised):
    limits = [(soft, hard)]
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _, new: limits.append(new))
    assert raise_limit() == raised
    assert limits[-1] == (raised, hard)


def test_too_few_to_start_is_said(monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (20, 20))
    with pytest.raises(TooFewDescriptors, match="may have 20 files open, and the proxy needs"):
        raise_limit()
