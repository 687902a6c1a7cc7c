"""Pins, signatures and policy: what is known of a content, and why it is refused."""

import os
from datetime import date

import pytest


def test_a_pin(verify, refused, program):
    digest = verify().content.digest.hexdigest
    assert verify(sha256=digest).pinned
    program.write_text("#!/bin/sh\necho tampered\n")
    error = refused(sha256=digest)
    assert error.reason == "digest_mismatch"
    assert digest in error.expected
    assert verify().content.digest.hexdigest in error.found


def test_a_revoked_content(verify, refused):
    digest = verify().content.digest.hexdigest
    assert refused({"revoked": [digest]}).reason == "digest_revoked"
    assert refused({"revoked": [digest]}, sha256=digest).reason == "digest_revoked"


def test_a_signature(verify, program, release):
    release.sign(program)
    verdict = verify({"policy": "require", "trusted_keys": [release.trusted]})
    assert (verdict.signer, verdict.key) == ("release", release.id)
    assert f"signed by release (key {release.id})" in str(verdict)


def test_the_policy(verify, refused, program, release):
    keys = {"trusted_keys": [release.trusted]}
    assert verify(keys).signer is None
    assert refused({**keys, "policy": "require"}).reason == "signature_missing"
    assert refused(keys, signature_policy="require").reason == "signature_missing"
    lenient = verify({**keys, "policy": "require"}, signature_policy="allow_missing")
    assert lenient.signer is None
    # A pin says what it is, not who made it.
    digest = lenient.content.digest.hexdigest
    assert refused({**keys, "policy": "require"}, sha256=digest).reason == ("signature_missing")


def test_a_signature_elsewhere(verify, refused, program, home, release):
    keys = {"trusted_keys": [release.trusted]}
    place = home / "elsewhere"
    release.sign(program).rename(place)
    assert verify(keys, signature=str(place)).signer == "release"
    missing = str(home / "nowhere")
    assert refused(keys, signature=missing).reason == "signature_missing"
    assert refused(signature=missing).reason == "signature_missing"


def test_without_trusted_keys_a_signature_means_nothing(verify, refused, program, release):
    place = release.sign(program)
    assert verify().signer is None
    assert refused(signature=str(place)).reason == "key_unknown"


def torn(content):
    return content[:-30]


def empty(_content):
    return b""


def huge(_content):
    return b"x" * 3 * 1024 * 1024


def with_another_digest(content):
    return content.replace(b"digest: sha256:", b"digest: sha256:" + b"0" * 64 + b"\n#", 1)


@pytest.mark.parametrize("change", [torn, empty, huge, with_another_digest])
def test_a_file_that_is_no_signature(refused, program, release, change):
    place = release.sign(program)
    place.write_bytes(change(place.read_bytes()))
    error = refused({"trusted_keys": [release.trusted]})
    assert (error.reason, error.place) == ("signature_malformed", str(place))


def test_a_signature_that_is_no_file(refused, program, release):
    os.mkfifo(f"{program}.sig")
    error = refused({"trusted_keys": [release.trusted]})
    assert error.reason == "signature_malformed"


def test_a_signature_that_was_changed(refused, program, release):
    place = release.sign(program, name="orders")
    place.write_bytes(place.read_bytes().replace(b"name: orders", b"name: orderz"))
    assert refused({"trusted_keys": [release.trusted]}).reason == "signature_invalid"


def test_a_signature_by_a_key_that_borrows_the_name_of_another(refused, program, release, other):
    place = release.sign(program)
    place.write_bytes(place.read_bytes().replace(release.id.encode(), other.id.encode()))
    assert refused({"trusted_keys": [other.trusted]}).reason == "signature_invalid"


def test_an_unknown_key(verify, refused, program, release, other):
    other.sign(program)
    error = refused({"trusted_keys": [release.trusted]})
    assert error.reason == "key_unknown"
    assert other.id in error.found
    assert f"release ({release.id})" in error.expected
    both = {"trusted_keys": [release.trusted, other.trusted]}
    assert verify(both).signer == "other"


def test_a_revoked_key(refused, program, release):
    release.sign(program)
    config = {"trusted_keys": [release.trusted], "revoked": [release.id]}
    assert refused(config).reason == "key_revoked"


def test_an_expired_key(verify, refused, program, release):
    release.sign(program)
    last_day = {"trusted_keys": [{**release.trusted, "expires": "2030-01-31"}]}
    verify(last_day, day=date(2030, 1, 31))
    error = refused(last_day, day=date(2030, 2, 1))
    assert error.reason == "key_expired"
    assert "2030-01-31" in error.found


def test_a_signature_of_something_else(refused, program, release):
    place = release.sign(program, b"something else")
    error = refused({"trusted_keys": [release.trusted]})
    assert error.reason == "digest_mismatch"
    assert str(place) in error.expected


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"name": "orders", "version": "v1.3"}, None),
        ({"name": "other", "version": "v1.3"}, "name_mismatch"),
        ({"name": "orders", "version": "v1.2"}, "version_mismatch"),
        ({"name": "orders"}, "version_mismatch"),
        ({"version": "v1.3"}, "name_mismatch"),
    ],
)
def test_what_the_catalogue_calls_it_the_signature_must(
    verify, refused, program, release, said, reason
):
    release.sign(program, **said)
    keys = {"trusted_keys": [release.trusted]}
    assert verify(keys).signer == "release", "an inline plugin has no name"
    if reason is None:
        assert verify(keys, name="orders", version="v1.3").signer == "release"
    else:
        assert refused(keys, name="orders", version="v1.3").reason == reason
