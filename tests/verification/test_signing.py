"""Private keys and their files, and signatures made with them."""

import os

import pytest

from prism.verification import signature
from prism.verification.signing import CannotSign, SigningKeyError, generate_key, load_key, sign


def test_a_key_is_for_its_owner_alone(tmp_path) -> None:
    path = tmp_path / "a.key"
    private = generate_key(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_key(path).public == private.public
    with pytest.raises(SigningKeyError, match="exists; it was left as it is"):
        generate_key(path)
    path.chmod(0o640)
    with pytest.raises(SigningKeyError, match=r"open to others .mode 0640"):
        load_key(path)


@pytest.mark.parametrize("content", [b"", b"no key", b"-----BEGIN PRIVATE KEY-----\n"])
def test_a_file_that_is_no_key(tmp_path, content: bytes) -> None:
    path = tmp_path / "a.key"
    path.touch(0o600)
    path.write_bytes(content)
    with pytest.raises(SigningKeyError, match="no Ed25519 private key"):
        load_key(path)


def test_a_key_that_is_not_there(tmp_path) -> None:
    with pytest.raises(SigningKeyError, match=r"cannot read .*No such file"):
        load_key(tmp_path / "a.key")
    with pytest.raises(SigningKeyError, match=r"cannot write .*No such file"):
        generate_key(tmp_path / "none" / "a.key")


# -- signatures -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["file", "package"])
def test_what_is_signed_is_what_the_proxy_accepts(verify, program, package, release, kind):
    path = str(program) if kind == "file" else f"{package}/"
    statement, place = sign(path, load_key(release.file), "orders", "v1.3")
    assert place.name in ("plugin.sig", "orders.sig")
    assert signature.parse(place.read_bytes())[0] == statement
    plugin = {"name": "orders", "version": "v1.3"}
    plugin |= (
        {"command": [str(program)]}
        if kind == "file"
        else {"module": "orders.plugin:Orders", "path": str(package.parent)}
    )
    config = {"policy": "require", "trusted_keys": [release.trusted]}
    assert verify(config, **plugin).signer == "release"


def test_who_signs_vouches_for_files_that_others_can_write(program, release):
    program.chmod(0o777)
    assert sign(str(program), load_key(release.file), None, None)[1].exists()


@pytest.mark.parametrize(
    ("name", "version", "message"),
    [
        ("No Name", None, "'No Name' cannot be a plugin's name"),
        ("orders", "v 1", "'v 1' cannot be a plugin's version"),
    ],
)
def test_a_name_that_no_catalogue_has(program, release, name, version, message):
    with pytest.raises(CannotSign, match=message):
        sign(str(program), load_key(release.file), name, version)
    assert not os.path.lexists(f"{program}.sig")


def test_a_signature_that_cannot_be_written(program, release):
    program.with_name("plugin.sig.new").mkdir()
    with pytest.raises(CannotSign, match=r"cannot write .*plugin\.sig: Is a directory"):
        sign(str(program), load_key(release.file), None, None)
