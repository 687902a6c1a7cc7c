"""Certificates for trying things out: python make_certificates.py

An authority (ca.pem), a server's certificate for localhost (server.pem, server-key.pem), and two
SVIDs, which are client certificates with a SPIFFE id as the one URI of their alternative names:
web.pem (spiffe://example.org/web/1) and db.pem (spiffe://example.org/db/1), each with its key. They
are good for a day. In production SPIRE, or another authority, issues such ones and renews them.
"""

import datetime
import os
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

NOW = datetime.datetime.now(datetime.UTC)
AUTHORITY = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "an authority to try things out")])


def certificate(subject, key, issuer_key, *extensions):
    """A certificate with these (extension, is critical), signed by ``issuer_key``."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(AUTHORITY)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - datetime.timedelta(minutes=5))
        .not_valid_after(NOW + datetime.timedelta(days=1))
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(issuer_key, hashes.SHA256()).public_bytes(Encoding.PEM)


def issue(name, purpose, authority_key):
    """A certificate for one name, and its key, both in PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    signed = certificate(
        x509.Name([]),
        key,
        authority_key,
        # Critical where there is no subject (RFC 5280, 4.2.1.6).
        (x509.SubjectAlternativeName([name]), True),
        (x509.ExtendedKeyUsage([purpose]), False),
        (x509.BasicConstraints(ca=False, path_length=None), True),
    )
    return signed, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def write(file, content, mode=0o644):
    """Write a file, which only its owner may read if it has a key in it."""
    opened = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(opened, "wb") as target:
        target.write(content)


authority_key = ec.generate_private_key(ec.SECP256R1())
is_authority = x509.BasicConstraints(ca=True, path_length=0)
write(Path("ca.pem"), certificate(AUTHORITY, authority_key, authority_key, (is_authority, True)))

server = issue(x509.DNSName("localhost"), ExtendedKeyUsageOID.SERVER_AUTH, authority_key)
write(Path("server.pem"), server[0])
write(Path("server-key.pem"), server[1], 0o600)

for who in ("web", "db"):
    spiffe_id = x509.UniformResourceIdentifier(f"spiffe://example.org/{who}/1")
    svid = issue(spiffe_id, ExtendedKeyUsageOID.CLIENT_AUTH, authority_key)
    write(Path(f"{who}.pem"), svid[0] + svid[1], 0o600)
