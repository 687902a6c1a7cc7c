import json
import re
from pathlib import Path

import httpx
import pytest
import trustme
from click.testing import CliRunner

from prism.cli.connection import (
    ANSWER_GRACE,
    LONGEST_CALL,
    Admin,
    check_json,
    longest_wait,
    say_refused,
    say_unreachable,
)
from prism.cli.main import prism


@pytest.mark.parametrize(
    ("timeout", "seconds"),
    [
        (None, LONGEST_CALL),
        ("250ms", 0.25 + ANSWER_GRACE),
        ("2s", 2 + ANSWER_GRACE),
        ("1.5min", 90 + ANSWER_GRACE),
    ],
)
def test_it_waits_longer_than_the_call_may_take(timeout, seconds):
    assert longest_wait(timeout) == seconds


@pytest.mark.parametrize(
    ("command", "name", "hint"),
    [
        ("shadow report", "kv:shadow", "; did you mean 'kv'?"),
        ("plugin status", "kv/2/1", "; did you mean 'kv'?"),
        ("plugin logs", "kv:shadow/1", "; did you mean 'kv'?"),
        ("plugin status", "#kv", ""),
    ],
)
def test_the_name_of_something_in_a_namespace_is_no_namespaces(command, name, hint):
    result = CliRunner().invoke(prism, [*command.split(), name])
    assert result.exit_code == 2
    assert f"not '{name}'{hint}\n" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["a/b", "get"],
        ["kv", "../get"],
        ["kv", ".."],
        ["kv", "get#fragment"],
        ["kv", "get?query"],
        ["kv", "%67et"],
        ["kv", "get\udcff"],
        ["", "get"],
        ["kv", "get", "--timeout", "1\ns"],
        ["kv", "get", "--timeout", "5x"],
        ["kv", "get", "--timeout", "0s"],
        ["kv", "get", "--timeout", "ms"],
        ["kv", "get", "{notjson}"],
        ["kv", "get", '{"a": }'],
        ["kv", "get", "--timeout", "\u00e9"],
        ["kv", "get", "--url", "ftp://127.0.0.1"],
        ["kv", "get", "--url", "127.0.0.1:50051"],
        ["kv", "get", "--url", "http://[::1"],
        ["kv", "get", "--url", "https://127.0.0.1", "--ca-cert", "none.pem"],
    ],
)
def test_wrong_usage(arguments):
    result = CliRunner().invoke(prism, ["call", *arguments])
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Error: " in result.stderr


@pytest.mark.parametrize(
    ("url", "error", "hint"),
    [
        ("http://h", "Server disconnected", "it is https://"),
        ("http://h", "[Errno 104] Connection reset by peer", "it is https://"),
        ("http://h", "[Errno 32] Broken pipe", "it is https://"),
        ("https://h", "[SSL: UNEXPECTED_EOF_WHILE_READING] EOF occurred", r"is it http://\?"),
        ("https://h", "[SSL: WRONG_VERSION_NUMBER] wrong version number", r"is it http://\?"),
        ("https://h", "[SSL: RECORD_LAYER_FAILURE] record layer failure", r"is it http://\?"),
        ("https://h", "certificate verify failed: unable to get local issuer", "--ca-cert"),
        (
            "https://h",
            "[SSL: TLSV13_ALERT_CERTIFICATE_REQUIRED] tlsv13 alert certificate required",
            "The proxy wants a client certificate: --cert",
        ),
        ("https://h", "[SSL: SSLV3_ALERT_CERTIFICATE_EXPIRED] (_ssl.c:1)", "Your .* has expired"),
        ("https://h", "[SSL: TLSV1_ALERT_UNKNOWN_CA] tlsv1 alert unknown ca", "does not know"),
        ("https://h", "certificate verify failed: certificate has expired", "proxy's .* expired"),
        ("https://h", "certificate verify failed: Hostname mismatch", "another name"),
        ("http://h", "[Errno 111] Connection refused", r"Is the proxy running\?"),
    ],
)
def test_what_is_probably_wrong_with_the_url(url, error, hint, capsys):
    say_unreachable(url, OSError(error))
    said, advice = capsys.readouterr().err.splitlines()
    assert said == f"prism: cannot call {url}: {error}"
    assert re.search(hint, advice)


@pytest.mark.parametrize(
    ("detail", "hint"),
    [
        ("authorization: Bearer, and a token", "With --key-file, or PRISM_KEY_FILE"),
        ("a client certificate", "With --cert"),
        (
            "authorization: Bearer, and a token, or a client certificate",
            "With --key-file, or PRISM_KEY_FILE; or --cert",
        ),
    ],
)
def test_how_to_say_who_one_is(detail, hint, capsys):
    problem = {"code": "UNAUTHENTICATED", "detail": f"say who you are: {detail}"}
    say_refused(401, json.dumps(problem))
    said, advice = capsys.readouterr().err.splitlines()
    assert said == f"prism: UNAUTHENTICATED: say who you are: {detail} (request -)"
    assert advice == hint


def test_the_words_of_a_goaway_are_read(capsys):
    said = b"this port speaks TLS\x1b".hex()
    shown = f"<ConnectionTerminated error_code:12, last_stream_id:0, additional_data:{said}>"
    say_unreachable("http://h", OSError(shown))
    told, advice = capsys.readouterr().err.splitlines()
    assert told == "prism: cannot call http://h: this port speaks TLS\ufffd"
    assert advice == "If TLS is spoken there, it is https://"


@pytest.mark.parametrize(
    ("code", "why"), [("0", ""), ("ErrorCodes.NO_ERROR", ""), ("11", " for an error (11)")]
)
def test_a_goaway_without_words_is_put_into_words(code, why, capsys):
    shown = f"<ConnectionTerminated error_code:{code}, last_stream_id:1, additional_data:None>"
    say_unreachable("http://h", OSError(shown))
    said = f"the connection was ended by the other side{why}, as it said"
    assert capsys.readouterr().err == f"prism: cannot call http://h: {said}\n"


def test_an_authority_that_was_named_and_did_not_issue_the_certificate(capsys):
    error = OSError("certificate verify failed: unable to get local issuer certificate")
    say_unreachable("https://h", error, "ca.pem")
    assert capsys.readouterr().err.splitlines()[1] == (
        "Its certificate was not issued by an authority in ca.pem (--ca-cert)"
    )


def test_a_files_name_in_place_of_json_is_told_how_a_file_is_read():
    result = CliRunner().invoke(prism, ["call", "kv", "get", "@file.json"])
    assert result.exit_code == 2
    assert "- reads them from standard input: < FILE" in " ".join(result.stderr.split())


def test_parameters_that_are_too_deep_for_this_side_are_for_the_proxy_to_judge():
    check_json(b"[" * 100_000 + b"]" * 100_000)


def test_an_error_that_says_it_all(capsys):
    say_unreachable("http://h", OSError("no route to host"))
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_certificate_without_its_key_is_named(tmp_path):
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    authority.issue_cert("me").cert_chain_pems[0].write_to_path(tmp_path / "client.pem")
    files = ["--ca-cert", str(tmp_path / "ca.pem"), "--cert", str(tmp_path / "client.pem")]
    result = CliRunner().invoke(prism, ["call", "kv", "get", "--url", "https://[::1]:1", *files])
    assert result.exit_code == 2
    assert (
        "client.pem: cannot be used for TLS: expected a certificate and its key in PEM"
        in result.stderr
    )
    assert "ca.pem" not in result.stderr


@pytest.mark.parametrize(
    "name", ["../plugins", "kv/health", "..", "", "kv?tail=1", "kv#", "k\u00e4"]
)
@pytest.mark.parametrize(
    "command", [["plugin", "status"], ["plugin", "logs"], ["namespace", "describe"]]
)
def test_a_name_that_would_lead_elsewhere(command, name):
    result = CliRunner().invoke(prism, [*command, "--url", "http://127.0.0.1:1", "--", name])
    assert (result.exit_code, result.stdout) == (2, "")
    assert "NAMESPACE is letters, digits, hyphens, underscores" in result.stderr


@pytest.mark.parametrize(
    "content", ["correct\nhorse", "correct horse", "h\u00e4llo", "cor\x01rect", " \n"]
)
def test_a_token_that_cannot_be_one_is_refused_and_not_shown(tmp_path, content):
    file = tmp_path / "admin.token"
    file.write_text(content)
    arguments = ["plugin", "list", "--url", "http://127.0.0.1:1", "--token-file", str(file)]
    result = CliRunner().invoke(prism, arguments)
    assert result.exit_code == 2
    assert "has no token" in result.stderr
    for word in content.split():
        assert word not in result.output


@pytest.mark.parametrize("option", ["--url", "--admin"])
def test_the_admin_port_goes_by_its_old_name_too(option):
    arguments = ["plugin", "list", option, "http://127.0.0.1:1"]
    result = CliRunner().invoke(prism, arguments)
    assert result.exit_code == 1
    assert "cannot reach the admin port at http://127.0.0.1:1" in result.stderr
    shown = CliRunner().invoke(prism, ["plugin", "list", "--help"]).stdout
    assert "--url TEXT" in shown
    assert "--admin" not in shown


NO_TOKEN = "show a token of admin.token_file or admin.tokens: authorization: Bearer, and the token"
WRONG_TOKEN = "this is no token of the admin port (admin.token_file, admin.tokens)"


@pytest.mark.parametrize(
    ("detail", "token_file", "hint"),
    [
        (NO_TOKEN, None, "Name the file with the token: --token-file, or PRISM_TOKEN_FILE"),
        (WRONG_TOKEN, "ann.token", "The token in ann.token is not one of those"),
        (
            "say who you are: authorization: Bearer, and a token",
            None,
            "http://h:1 is the data port",
        ),
        ("this is no API key", "ann.token", "http://h:1 is the data port"),
    ],
)
def test_what_a_401_of_either_port_means(detail, token_file, hint, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    Path("ann.token").write_text("0123456789abcdef")
    problem = {"code": "UNAUTHENTICATED", "reason": "unauthenticated", "detail": detail}
    transport = httpx.MockTransport(
        lambda _: httpx.Response(401, text=json.dumps(problem, separators=(",", ":")))
    )
    admin = Admin("http://h:1", token_file, None, None)
    admin.client = httpx.Client(base_url="http://h:1", transport=transport)
    with pytest.raises(SystemExit):
        admin.post("/admin/restart", {})
    said, advice = capsys.readouterr().err.splitlines()
    assert detail in said
    assert advice.startswith(hint)


@pytest.mark.parametrize(
    "text", ["<html>", "[" * 100_000, ""], ids=["a page", "too deep", "nothing"]
)
def test_what_answers_and_is_no_admin_port(text, capsys):
    admin = Admin("http://h:1", None, None, None)
    transport = httpx.MockTransport(lambda _: httpx.Response(200, text=text))
    admin.client = httpx.Client(base_url="http://h:1", transport=transport)
    for ask in (lambda: admin.get("/admin/plugins"), lambda: admin.post("/admin/restart", {})):
        with pytest.raises(SystemExit):
            ask()
        said = capsys.readouterr().err
        assert said == "prism: http://h:1 is no admin port: what it answers is not JSON\n"
    assert admin.attempt("/admin/traffic") == (None, said.removeprefix("prism: ").strip())
