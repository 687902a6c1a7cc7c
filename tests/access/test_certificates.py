import re

import pytest
from authority import HOUR, NOW, Authority, dns, email, uri
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from prism.access.api_keys import APIKeys, create_key
from prism.access.authentication import Authentication
from prism.access.certificates import identify_certificate
from prism.contract.errors import Unauthenticated


@pytest.fixture(scope="module")
def issue(tmp_path_factory):
    """The DER of a certificate with these names."""
    authority = Authority(tmp_path_factory.mktemp("ca"))

    def issue(*names, **more):
        return authority.issue(*names, **more)[0].public_bytes(Encoding.DER)

    return issue


@pytest.mark.parametrize(
    ("kind", "names", "principal"),
    [
        ("spiffe", [uri("spiffe://prod/web/1"), dns("a.example")], "spiffe://prod/web/1"),
        ("spiffe", [uri("spiffe://prod")], "spiffe://prod"),
        ("san_dns", [dns("Web.Example"), uri("spiffe://prod/web")], "web.example"),
        ("san_email", [email("ada@example.com"), dns("a.example")], "ada@example.com"),
        ("common_name", [], "Ada Lovelace"),
    ],
)
def test_whose_it_is(issue, kind, names, principal):
    found = identify_certificate(issue(*names, common_name="Ada Lovelace"), kind, NOW.timestamp())
    assert found.name == principal
    assert found.expires == int((NOW + HOUR).timestamp())
    assert re.fullmatch("(?:[0-9A-F]{2})+", found.certificate)


@pytest.mark.parametrize(
    ("kind", "names", "problem"),
    [
        ("spiffe", [], "no SPIFFE id"),
        ("spiffe", [dns("spiffe.example")], "no SPIFFE id"),
        ("spiffe", [uri("spiffe://prod/a"), uri("spiffe://prod/b")], "has 2 SPIFFE id"),
        ("spiffe", [uri("https://prod/web")], "is no SPIFFE id"),
        ("spiffe", [uri("spiffe://prod/web/../db")], "is no SPIFFE id"),
        ("spiffe", [uri("spiffe://prod/web?x")], "is no SPIFFE id"),
        ("spiffe", [uri("spiffe://PROD/web")], "is no SPIFFE id"),
        ("spiffe", [uri("spiffe://prod/web/")], "is no SPIFFE id"),
        ("san_dns", [dns("a.example"), dns("b.example")], "has 2 DNS name"),
        ("san_dns", [dns("*.example")], "stands for many"),
        ("san_dns", [email("a@example.com")], "no DNS name"),
        ("san_email", [dns("a.example")], "no email address"),
        ("common_name", [dns("a.example")], "no common name"),
    ],
)
def test_whose_it_is_not(issue, kind, names, problem):
    with pytest.raises(Unauthenticated, match=problem):
        identify_certificate(issue(*names), kind, NOW.timestamp())


@pytest.mark.parametrize("name", ["anonymous", " ada", "a*"])
def test_names_that_name_nobody(issue, name):
    with pytest.raises(Unauthenticated, match=r"cannot be a principal|stands for many"):
        identify_certificate(issue(common_name=name), "common_name", NOW.timestamp())


def test_a_certificate_is_good_in_its_time_only(issue):
    certificate = issue(common_name="ada")
    end = int((NOW + HOUR).timestamp())
    identify_certificate(certificate, "common_name", end - 1)
    for moment in (end, end - 3 * 3600):
        with pytest.raises(Unauthenticated, match="has expired"):
            identify_certificate(certificate, "common_name", moment)


def test_no_certificate():
    with pytest.raises(Unauthenticated, match="cannot be read"):
        identify_certificate(b"0\x03abc", "spiffe", 0.0)


def test_certificates_that_only_openssl_reads(issue):
    version, strange = b"\xa0\x03\x02\x01\x02", issue(common_name="ada")
    assert version in strange
    with pytest.raises(Unauthenticated, match="cannot be read"):
        identify_certificate(strange.replace(version, version[:-1] + b"\x01"), "spiffe", 0.0)
    x400 = x509.UnrecognizedExtension(
        x509.ObjectIdentifier("2.5.29.17"), bytes.fromhex("3007a30530030c0161")
    )
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([])
    made = x509.CertificateBuilder(name, name, key.public_key(), 1, NOW, NOW + HOUR, [])
    made = made.add_extension(x400, critical=False).sign(key, SHA256())
    with pytest.raises(Unauthenticated, match="cannot be read"):
        identify_certificate(made.public_bytes(Encoding.DER), "spiffe", 0.0)


def test_it_is_judged_once_and_again_at_its_end(issue):
    now = [NOW.timestamp()]
    authentication = Authentication(certificate_name="common_name", clock=lambda: now[0])
    certificate = issue(common_name="ada", end=NOW + HOUR / 60)
    first = authentication.identify([], certificate)
    assert authentication.identify([], certificate) is first
    now[0] = int((NOW + HOUR / 60).timestamp())
    with pytest.raises(Unauthenticated, match="has expired"):
        authentication.identify([], certificate)


def test_a_certificate_that_is_sent_as_a_token_is_none(issue):
    certificate = issue(common_name="ada")
    authentication = Authentication(certificate_name="common_name")
    authentication.identify([], certificate)
    with pytest.raises(Unauthenticated):
        authentication.identify([(b"authorization", certificate)])


def test_a_token_goes_before_the_certificate(issue):
    authentication = Authentication(certificate_name="common_name")
    with pytest.raises(Unauthenticated):
        authentication.identify([(b"authorization", b"Bearer x")], issue(common_name="ada"))


def test_a_certificate_says_nothing_where_it_is_not_asked(issue):
    with pytest.raises(Unauthenticated, match="say who you are"):
        Authentication().identify([], issue(common_name="ada"))


def test_only_the_ways_that_there_are_are_named(tmp_path):
    create_key(tmp_path / "keys.yaml", "ada", [])
    keys = APIKeys(tmp_path / "keys.yaml")
    token, certificate = "authorization: Bearer, and a token", "a client certificate"
    for authentication, ways in (
        (Authentication(keys), token),
        (Authentication(certificate_name="spiffe"), certificate),
        (Authentication(keys, certificate_name="spiffe"), f"{token}, or {certificate}"),
    ):
        with pytest.raises(Unauthenticated, match=f"^say who you are: {ways}$"):
            authentication.identify([])
    for header in (b"Bearer x", b"Basic eDp5", b"Bearer"):
        with pytest.raises(Unauthenticated, match=f"no token is taken here.*: {certificate}$"):
            Authentication(certificate_name="spiffe").identify([(b"authorization", header)])
