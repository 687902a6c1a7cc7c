"""Client certificates as credentials.

TLS has verified by then that the certificate is an authority's of ``tls.client_ca``, for clients,
and that its holder has the key. What is left is whose it is, by one name of one kind: the
subject's alternative names where the configuration says so, never whatever happens to be there.
A certificate with two such names is refused, since it would be for the client to choose.
"""

import re
from collections.abc import Callable
from typing import Literal

from cryptography import x509
from cryptography.x509.oid import NameOID

from prism.access.identity import Identity, unfit_name
from prism.contract.errors import Unauthenticated
from prism.streams.tls import serial_text

UNREADABLE = (
    ValueError,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
"""What a certificate raises that OpenSSL understands and this library does not."""

NameKind = Literal["spiffe", "san_dns", "san_email", "common_name"]

_WORDS = {
    "spiffe": "SPIFFE id (a URI among its alternative names)",
    "san_dns": "DNS name among its alternative names",
    "san_email": "email address among its alternative names",
    "common_name": "common name",
}
_is_spiffe_id = re.compile(
    r"spiffe://[a-z0-9._-]{1,255}(?:/(?!\.\.?(?:/|$))[A-Za-z0-9._-]+)*"
).fullmatch


def identify_certificate(certificate: bytes, kind: NameKind, now: float) -> Identity:
    """Whose ``certificate`` (DER) is.

    Raises:
        Unauthenticated: it has no such name, or is not good at this time.
    """
    try:
        parsed = x509.load_der_x509_certificate(certificate)
        names = [*_NAMES[kind](parsed)]
        starts, ends = parsed.not_valid_before_utc, parsed.not_valid_after_utc
    except UNREADABLE:
        raise _refused("it cannot be read") from None
    if not starts.timestamp() <= now < ends.timestamp():
        raise _refused("it has expired, or is not good yet")
    if len(names) != 1:
        raise _refused(f"it has {len(names) or 'no'} {_WORDS[kind]}, where there must be one")
    [name] = names
    if kind == "spiffe" and _is_spiffe_id(name) is None:
        raise _refused("its URI is no SPIFFE id")
    if why := unfit_name(name):
        raise _refused(f"its name cannot be a principal's: {why}")
    if "*" in name:
        raise _refused("its name stands for many")
    serial = serial_text(parsed.serial_number)
    return Identity(name, certificate=serial, expires=ends.timestamp())


def _refused(why: str) -> Unauthenticated:
    return Unauthenticated(f"this client certificate is not good: {why}", shown=True)


def _alternative(kind: type[x509.GeneralName], certificate: x509.Certificate) -> list[str]:
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return []
    return [str(name.value) for name in found.value if isinstance(name, kind)]


def _common_names(certificate: x509.Certificate) -> list[str]:
    found = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return [str(attribute.value) for attribute in found]


_NAMES: dict[str, Callable[[x509.Certificate], list[str]]] = {
    "spiffe": lambda certificate: _alternative(x509.UniformResourceIdentifier, certificate),
    "san_dns": lambda certificate: [
        name.lower() for name in _alternative(x509.DNSName, certificate)
    ],
    "san_email": lambda certificate: _alternative(x509.RFC822Name, certificate),
    "common_name": _common_names,
}
