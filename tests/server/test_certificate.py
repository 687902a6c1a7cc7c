import contextlib
import datetime
import ssl

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from prism.server.certificate import read_certificate

KEY = ec.generate_private_key(ec.SECP256R1())
UTC = datetime.UTC


def make(expires, serial=12345, name="a"):
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    builder = x509.CertificateBuilder(subject, subject, KEY.public_key(), serial)
    begins = datetime.datetime(1960, 1, 1, tzinfo=UTC)
    dated = builder.not_valid_before(begins).not_valid_after(expires)
    return dated.sign(KEY, hashes.SHA256()).public_bytes(Encoding.DER)


@given(
    expires=st.datetimes(
        datetime.datetime(1961, 1, 1), datetime.datetime(2200, 1, 1), timezones=st.just(UTC)
    ).map(lambda moment: moment.replace(microsecond=0)),
    serial=st.integers(1, 2**150),
    name=st.text("ab", min_size=1, max_size=60),
)
def test_the_serial_number_and_the_end_are_those_of_the_certificate(expires, serial, name):
    found = read_certificate(make(expires, serial, name))
    assert int(found.serial, 16) == serial
    assert found.expires == expires.timestamp()


@given(
    changes=st.dictionaries(st.integers(0, 120), st.integers(0, 255), min_size=1, max_size=5),
    cut=st.integers(0, 250),
)
def test_what_is_not_a_certificate_raises_value_errors_only(changes, cut):
    der = bytearray(make(datetime.datetime(2030, 1, 1, tzinfo=UTC)))
    for place, value in changes.items():
        der[place] = value
    with contextlib.suppress(ValueError):
        read_certificate(bytes(der))
    with contextlib.suppress(ValueError):
        read_certificate(bytes(der[:cut]))


def test_a_certificate_as_it_is_issued():
    issued = trustme.CA().issue_cert("localhost").cert_chain_pems[0].bytes()
    found = read_certificate(ssl.PEM_cert_to_DER_cert(issued.decode()))
    assert found.expires == x509.load_pem_x509_certificate(issued).not_valid_after_utc.timestamp()


def test_nothing_is_no_certificate():
    with pytest.raises(ValueError, match="not a certificate"):
        read_certificate(b"")
