import pytest

from prism.sdk import Plugin
from prism.sdk.endpoints import FD_VARIABLE, SOCKET_VARIABLE, Address
from prism.sdk.options import parse_options

TLS = ["--tls-cert", "c.pem", "--tls-key", "k.pem"]


class Some(Plugin):
    name = "some"


def parse(*argv, **environment):
    return parse_options(Some, argv, environment)


def test_where_the_host_is():
    assert parse(**{FD_VARIABLE: "7"}).descriptor == 7
    assert parse(**{SOCKET_VARIABLE: "/run/s"}).connect == Address(path="/run/s")
    assert parse("--connect", "unix:/run/s").connect == Address(path="/run/s")
    assert parse("--listen", "unix:/run/s").listen == Address(path="/run/s")
    listen = parse("--listen", "tcp:[::1]:20100", "--insecure").listen
    assert (listen.host, listen.port) == ("::1", 20100)
    assert parse("--listen", "tcp:0.0.0.0:1", *TLS).tls_cert == "c.pem"


def test_the_command_line_counts_before_the_environment():
    options = parse("--connect", "unix:/a", **{FD_VARIABLE: "7", SOCKET_VARIABLE: "/b"})
    assert (options.descriptor, options.connect) == (None, Address(path="/a"))
    assert parse(**{FD_VARIABLE: "7", SOCKET_VARIABLE: "/b"}).connect is None


@pytest.mark.parametrize(
    ("argv", "environment", "message"),
    [
        ([], {}, "nothing says where the proxy is"),
        ([], {FD_VARIABLE: "seven"}, f"{FD_VARIABLE}='seven' is not a file descriptor"),
        ([], {FD_VARIABLE: "-1"}, "is not a file descriptor"),
        ([], {SOCKET_VARIABLE: "/" + "x" * 107}, "the most is 107"),
        (["--connect", "tcp:127.0.0.1:1"], {}, "plugins dial Unix sockets only"),
        (
            ["--connect", "/run/s"],
            {},
            "is not an address: write unix:PATH, tcp:HOST:PORT or ws:HOST:PORT",
        ),
        (["--listen", "tcp:host"], {}, "is not an address"),
        (["--listen", "tcp:h:65536"], {}, "is not an address"),
        (["--listen", "tcp:h:²"], {}, "is not an address"),
        (["--listen", "unix:/a", "--connect", "unix:/b"], {}, "not allowed with"),
        (["--listen", "tcp:127.0.0.1:1"], {}, "without TLS"),
        (["--listen", "tcp:0.0.0.0:1", "--insecure"], {}, "loopback"),
        (["--listen", "tcp:h:1", "--tls-cert", "c"], {}, "belong together"),
        (["--listen", "tcp:h:1", "--insecure", "--tls-client-ca", "c"], {}, "needs --tls-cert"),
        (["--listen", "unix:/a", *TLS], {}, "TLS options are for"),
        (["--connect", "unix:/a", *TLS], {}, "TLS options are for"),
        (["--connect", "unix:/a", "--log-level", "LOUD"], {}, "invalid choice"),
    ],
)
def test_wrong_options_are_explained(argv, environment, message, capsys):
    with pytest.raises(SystemExit) as caught:
        parse(*argv, **environment)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_help_names_the_plugin(capsys):
    with pytest.raises(SystemExit):
        parse("--help")
    assert "Prism plugin some" in capsys.readouterr().out
