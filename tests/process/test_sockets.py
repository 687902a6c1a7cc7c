import fcntl
import os
import resource
import socket

import pytest

from prism.process import sockets
from prism.process.sockets import (
    connections_that_fit,
    for_place,
    from_descriptor,
    from_service_manager,
)
from prism.streams.errors import ListenError


@pytest.fixture
def listening():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


@pytest.fixture
def from_systemd(monkeypatch):
    """Sockets from the first descriptor on, as this process may have others at 3."""
    servers = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    first = 500
    for number, server in enumerate(servers, first):
        os.dup2(server.detach(), number)
    monkeypatch.setattr(sockets, "FIRST_FD", first)

    def receive(**variables):
        environment = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "2", **variables}
        return from_service_manager(environment)

    yield receive
    for number in range(first, first + len(servers)):
        os.close(number)


def taken(given):
    """The roles; the sockets go back to who gave them."""
    return [(item.role, item.socket.detach() - 500) for item in given]


@pytest.mark.parametrize(
    ("names", "roles"),
    [
        ("data:admin", ["data", "admin"]),
        ("admin:data", ["admin", "data"]),
        ("prism.socket:prism.socket", ["data", "data"]),
        ("", ["data", "data"]),
    ],
)
def test_names_say_what_a_socket_is_for(from_systemd, names, roles):
    assert taken(from_systemd(LISTEN_FDNAMES=names)) == [(roles[0], 0), (roles[1], 1)]


@pytest.mark.parametrize("variables", [{"LISTEN_PID": "1"}, {"LISTEN_PID": ""}])
def test_sockets_for_another_process_are_left_alone(from_systemd, variables):
    assert from_systemd(**variables) == []


def test_without_a_service_manager_there_are_none():
    assert from_service_manager({}) == []


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"LISTEN_FDS": "many"}, "LISTEN_FDS is 'many', not a number"),
        ({"LISTEN_FDNAMES": "data"}, "LISTEN_FDS is 2, but LISTEN_FDNAMES has 1 names"),
    ],
)
def test_variables_that_make_no_sense(from_systemd, variables, message):
    with pytest.raises(ListenError, match=message):
        from_systemd(**variables)


def test_a_name_that_is_misspelt_beside_a_known_one(from_systemd):
    with pytest.raises(ListenError, match="'amdin'; set FileDescriptorName=data, or admin"):
        from_systemd(LISTEN_FDNAMES="amdin:data")


def test_a_socket_that_was_taken_is_not_inherited_further(listening):
    number = listening.detach()
    os.set_inheritable(number, True)
    with from_descriptor(number, "data").socket as taken_over:
        assert taken_over.fileno() == number
        assert fcntl.fcntl(number, fcntl.F_GETFD) & fcntl.FD_CLOEXEC


def test_what_is_not_a_listening_stream_socket_is_refused_and_left_open():
    with socket.socket() as idle, socket.socket(type=socket.SOCK_DGRAM) as datagram:
        for one in (idle, datagram):
            with pytest.raises(ListenError, match="not a listening stream socket"):
                from_descriptor(one.fileno(), "data")
            os.fstat(one.fileno())
    with pytest.raises(ListenError, match="descriptor 999: it is not open"):
        from_descriptor(999, "data")


def test_a_socket_serves_the_address_that_it_was_opened_for(listening):
    moved = from_descriptor(os.dup(listening.fileno()), "data", "127.0.0.1:1")
    anywhere = from_descriptor(os.dup(listening.fileno()), "data")
    admin = from_descriptor(os.dup(listening.fileno()), "admin")
    given = [moved, anywhere, admin]
    assert for_place(given, "data", "127.0.0.1:1") == [moved, anywhere]
    assert for_place(given, "data", "127.0.0.1:2") == [anywhere]
    for item in given:
        item.socket.close()


@pytest.mark.parametrize(
    ("soft", "hard", "wanted", "fits", "raised"),
    [
        (1024, 1_000_000, 4096, 4096, 1_000_000),
        (8192, 8192, 4096, 4096, 8192),
        (1024, 1024, 4096, 768, 1024),
        (64, 64, 4096, 32, 64),
        (1024, resource.RLIM_INFINITY, 4096, 4096, 2**20),
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
