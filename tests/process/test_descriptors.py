import resource

import pytest

from prism.process.descriptors import connections_that_fit


@pytest.mark.parametrize(
    ("soft", "hard", "wanted", "fits", "raised"),
    [
        (1024, 1_000_000, 4096, 4096, 4352),
        (8192, 8192, 4096, 4096, 8192),
        (1024, 1024, 4096, 768, 1024),
        (64, 64, 4096, 32, 64),
        (1024, resource.RLIM_INFINITY, 4096, 4096, 4352),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, 4096, 4096, resource.RLIM_INFINITY),
    ],
)
def test_the_limit_is_raised_or_fewer_connections_are_kept(
    monkeypatch, caplog, soft, hard, wanted, fits, raised
):
    limits = [(soft, hard)]
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _, new: limits.append(new))
    assert connections_that_fit(wanted) == fits
    assert limits[-1] == (raised, hard)
    assert bool(caplog.records) == (fits < wanted)
