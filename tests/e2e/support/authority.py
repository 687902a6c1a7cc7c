"""Certificates of every kind, which trustme makes too well."""

import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

PEM = Encoding.PEM
CLIENT_AUTH = ExtendedKeyUsageOID.CLIENT_AUTH
NOW = datetime.datetime.now(datetime.UTC)
HOUR = datetime.timedelta(hours=1)


class Authority:
    """A CA. ``file`` has its certificate."""

    def __init__(self, directory, name="ca"):
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = self._builder(self._name, self._key.public_key(), NOW + 24 * HOUR)
        self.certificate = builder.add_extension(
            x509.BasicConstraints(ca=True, path_length=None), critical=True
        ).sign(self._key, hashes.SHA256())
        self.file = directory / f"{name}.pem"
        self.file.write_bytes(self.certificate.public_bytes(PEM))

    def _builder(self, subject, key, end):
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW - HOUR)
            .not_valid_after(end)
        )

    def issue(
        self, *names, common_name="", end=NOW + HOUR, purpose=ExtendedKeyUsageOID.CLIENT_AUTH
    ):
        """A certificate with these alternative names, and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        attributes = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)] if common_name else []
        builder = self._builder(x509.Name(attributes), key.public_key(), end).add_extension(
            x509.ExtendedKeyUsage([purpose]), critical=False
        )
        if names:
            # Without a subject it has to be critical (RFC 5280, 4.2.1.6): Java reads no other.
            found = x509.SubjectAlternativeName(names)
            builder = builder.add_extension(found, critical=not common_name)
        return builder.sign(self._key, hashes.SHA256()), key

    def revoke(self, *files, end=NOW + HOUR):
        """The path of a revocation list with the certificates in ``files``."""
        builder = x509.CertificateRevocationListBuilder().issuer_name(self._name)
        builder = builder.last_update(NOW - HOUR).next_update(end)
        for file in files:
            [found] = x509.load_pem_x509_certificates(file.read_bytes())
            entry = x509.RevokedCertificateBuilder().serial_number(found.serial_number)
            builder = builder.add_revoked_certificate(entry.revocation_date(NOW).build())
        list_file = self._directory / "revoked.pem"
        list_file.write_bytes(builder.sign(self._key, hashes.SHA256()).public_bytes(PEM))
        return list_file

    def write(self, name, *names, **more):
        """The path of a file with a certificate and its key."""
        certificate, key = self.issue(*names, **more)
        file = self._directory / f"{name}.pem"
        private = key.private_bytes(PEM, PrivateFormat.PKCS8, NoEncryption())
        file.write_bytes(private + certificate.public_bytes(PEM))
        return file


uri = x509.UniformResourceIdentifier
dns = x509.DNSName
email = x509.RFC822Name
