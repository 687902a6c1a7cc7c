import pytest

from prism.server.forwarded import TrustedProxies

PROXY = ("10.0.0.1", 4000)
TRUSTED = TrustedProxies(["10.0.0.0/8", "2001:db8:1::/48"])
RFC7239 = TrustedProxies(["10.0.0.0/8"], "forwarded")


@pytest.mark.parametrize(
    ("client", "trusted"),
    [
        (PROXY, True),
        (("::ffff:10.0.0.1", 1), True),
        (("2001:db8:1::5", 1), True),
        (("192.0.2.1", 1), False),
        (None, False),
    ],
)
def test_who_is_trusted(client, trusted):
    assert TRUSTED.trusts(client) is trusted
    assert not TrustedProxies([]).trusts(client)


@pytest.mark.parametrize(
    ("values", "client"),
    [
        ([], PROXY),
        (["192.0.2.1"], ("192.0.2.1", 0)),
        (["192.0.2.1:99"], ("192.0.2.1", 99)),
        (["2001:db8::1"], ("2001:db8::1", 0)),
        (["[2001:db8::1]:99"], ("2001:db8::1", 99)),
        (["192.0.2.1, 10.2.3.4"], ("192.0.2.1", 0)),  # two proxies
        (["192.0.2.1", "10.2.3.4"], ("192.0.2.1", 0)),
        (["6.6.6.6, 192.0.2.1"], ("192.0.2.1", 0)),  # the client has lied
        (["10.9.9.9, 192.0.2.1, 10.2.3.4"], ("192.0.2.1", 0)),
        (["10.2.3.4"], ("10.2.3.4", 0)),
        (["unknown"], PROXY),
        (["192.0.2.1, unknown"], PROXY),
        (["1" * 9000 + ", 192.0.2.1"], ("192.0.2.1", 0)),
        (["192.0.2.1:999999"], PROXY),
        ([""], PROXY),
    ],
)
def test_whom_x_forwarded_for_names(values, client):
    headers = [(b"host", b"a"), *((b"x-forwarded-for", value.encode()) for value in values)]
    assert TRUSTED.client_of(headers, PROXY) == client
    assert RFC7239.client_of(headers, PROXY) == PROXY  # another header is not believed


@pytest.mark.parametrize(
    ("value", "client"),
    [
        ("for=192.0.2.1", ("192.0.2.1", 0)),
        ('for="[2001:db8::1]:99";proto=https', ("2001:db8::1", 99)),
        ("by=10.0.0.1;For=192.0.2.1, for=10.2.3.4", ("192.0.2.1", 0)),
        ("for=6.6.6.6, for=192.0.2.1;host=a", ("192.0.2.1", 0)),
        ('for=", for=192.0.2.1', ("192.0.2.1", 0)),
        ('for=", for="[2001:db8::1]"', ("2001:db8::1", 0)),
        ("for=_hidden", PROXY),
        # A proxy quotes what the client has named.
        ('for=192.0.2.1;host="a, for=6.6.6.6"', ("192.0.2.1", 0)),
        ('for=192.0.2.1;host="a;for=6.6.6.6"', ("192.0.2.1", 0)),
        (r'for=192.0.2.1;host="\", for=6.6.6.6"', ("192.0.2.1", 0)),
        (r'host="a\\", for=192.0.2.1;by="b,c"', ("192.0.2.1", 0)),
        ('by="10.0.0.1, x";for=192.0.2.1 , for="10.2.3.4:80"', ("192.0.2.1", 0)),
        ("for=192.0.2.1, by=10.0.0.1", PROXY),  # the last says nothing
        ("for=6.6.6.6;for=192.0.2.1", PROXY),
        ("for=192.0.2.1;", ("192.0.2.1", 0)),
        ('for=192.0.2.1;host="', PROXY),
        ('host="' + "\\" * 5000 + '", for=192.0.2.1', ("192.0.2.1", 0)),
    ],
)
def test_whom_forwarded_names(value, client):
    assert RFC7239.client_of([(b"forwarded", value.encode())], PROXY) == client
