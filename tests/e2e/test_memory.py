"""What an idle proxy and idle connections take; generous limits, benchmarks have figures."""

from http2_client import Http2Client

CONNECTIONS = 200


def test_memory_at_rest_and_for_idle_connections(start_prism):
    proxy = start_prism()
    at_rest = proxy.resident()
    clients = [Http2Client(proxy.port) for _ in range(10)]
    for client in clients:  # the first ones bring in code
        assert client.request("/v1", b"", method="GET").status == 200
    before = proxy.resident()
    clients += [Http2Client(proxy.port) for _ in range(CONNECTIONS)]
    for client in clients[10:]:
        assert client.request("/v1", b"", method="GET").status == 200
    each = (proxy.resident() - before) / CONNECTIONS
    for client in clients:
        client.close()
    print(f"at rest {at_rest / 1e6:.1f} MB; an idle connection {each / 1e3:.0f} KB")
    assert at_rest < 90e6
    assert each < 150e3
