import math
import os
import re
import threading
import time

import pytest

from prism.access.api_keys import (
    APIKeys,
    KeyFileError,
    create_key,
    hash_of,
    is_api_key,
    read_keys,
    revoke_key,
)
from prism.config.errors import ConfigError


@pytest.fixture
def file(tmp_path):
    return tmp_path / "keys.yaml"


def is_changed(keys):
    """Whether two looks find the same change."""
    return not keys.is_changed() and keys.is_changed()


def test_a_key_is_found_and_its_secret_is_nowhere(file):
    key, entry = create_key(file, "reports", ["billing"])
    assert re.fullmatch(f"prism_{entry.id}_[0-9a-f]{{64}}", key)
    assert key[-64:] not in file.read_text()
    assert hash_of(key.encode()) in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600
    found = APIKeys(file).identify(key.encode(), time.time())
    assert (found.name, found.groups, found.key) == ("reports", {"billing"}, entry.id)


def test_what_is_no_good_key(file):
    key, entry = create_key(file, "reports", [])
    other, _ = create_key(file, "other", [])
    keys = APIKeys(file)
    wrong = f"prism_{entry.id}_{other[-64:]}"
    flipped = key[:-1] + ("0" if key[-1] != "0" else "1")
    for given in (wrong, flipped, key.upper(), key + "0", key[:-1], "prism_", key + "\n", ""):
        assert keys.identify(given.encode(), time.time()) is None, given
    assert is_api_key(key.encode())
    assert not is_api_key(b"eyJhbGciOiJub25lIn0.e30.")


def test_an_unknown_key_takes_a_comparison_as_well(file, monkeypatch):
    key, entry = create_key(file, "reports", [])
    keys = APIKeys(file)
    compared = []

    def compare(one, other):
        compared.append((one, other))
        return one == other

    monkeypatch.setattr("prism.access.api_keys.hmac.compare_digest", compare)
    assert keys.identify(key.encode(), 0.0) is not None
    assert keys.identify(key.replace(entry.id, "0" * 12).encode(), 0.0) is None
    assert len(compared) == 2
    assert len({len(text) for pair in compared for text in pair}) == 1


def test_a_key_is_good_to_the_end_of_its_last_day(file):
    key, _ = create_key(file, "reports", [], "2030-01-31")
    keys, end = APIKeys(file), 1_896_134_400.0  # 2030-02-01, midnight UTC
    identity = keys.identify(key.encode(), end - 1)
    assert identity.expires == end
    assert keys.identify(key.encode(), end) is None
    assert keys.has(identity, end - 1)
    assert not keys.has(identity, end)


def test_a_key_whose_last_day_is_the_last_there_is_does_not_end(file):
    key, _ = create_key(file, "reports", [], "9999-12-31")
    keys = APIKeys(file)
    identity = keys.identify(key.encode(), time.time())
    assert identity.expires == math.inf
    assert keys.has(identity, time.time())


def test_a_revoked_key_stays_in_the_file_and_opens_nothing(file):
    key, entry = create_key(file, "reports", [])
    keys = APIKeys(file)
    identity = keys.identify(key.encode(), time.time())
    assert not keys.is_changed()
    revoke_key(file, entry.id)
    assert is_changed(keys)
    keys.use(keys.read())
    assert keys.identify(key.encode(), time.time()) is None
    assert not keys.has(identity, time.time())
    assert read_keys(file)[0].revoked is not None
    assert revoke_key(file, entry.id) == read_keys(file)[0]


def test_the_file_stays_its_owners(file, monkeypatch):
    _, entry = create_key(file, "reports", [])
    file.chmod(0o640)
    given = []
    monkeypatch.setattr(os, "fchown", lambda descriptor, *owner: given.append(owner))
    revoke_key(file, entry.id)
    assert given == [(file.stat().st_uid, file.stat().st_gid)]
    assert file.stat().st_mode & 0o777 == 0o640

    def refuse(descriptor, *owner):
        raise PermissionError

    monkeypatch.setattr(os, "fchown", refuse)
    create_key(file, "other", [])
    assert len(read_keys(file)) == 2


@pytest.mark.parametrize("mode", [0o666, 0o660, 0o602])
def test_a_file_that_others_may_change_says_nothing_about_anybody(file, mode):
    key, entry = create_key(file, "reports", [])
    keys = APIKeys(file)
    identity = keys.identify(key.encode(), time.time())
    file.chmod(mode)
    content = file.read_bytes()
    said = (
        rf"keys.yaml: the file may be changed by other users \(mode {mode:04o}\); chmod it to 0600"
    )
    for use in (
        lambda: APIKeys(file),
        keys.read,
        lambda: read_keys(file),
        lambda: create_key(file, "other", []),
        lambda: revoke_key(file, entry.id),
    ):
        with pytest.raises(ConfigError, match=said):
            use()
    assert file.read_bytes() == content
    assert keys.has(identity, time.time()), "a running proxy keeps what it had"
    file.chmod(0o640)
    assert len(read_keys(file)) == 1


def test_a_file_that_others_may_put_another_in_place_of(file, tmp_path):
    create_key(file, "reports", [])
    (tmp_path / "links").mkdir()
    link = tmp_path / "links" / "keys.yaml"
    link.symlink_to(file)
    for directory, names in ((tmp_path, (file, link)), (link.parent, (link,))):
        directory.chmod(0o777)
        for name in names:
            with pytest.raises(ConfigError, match="any user may change; chmod that to 0755"):
                read_keys(name)
        directory.chmod(0o1777)
    assert len(read_keys(file)) == len(read_keys(link)) == 1


def test_a_change_is_seen_that_leaves_size_and_time_as_they_were(file):
    create_key(file, "reports", [])
    keys = APIKeys(file)
    before = file.stat()
    assert not keys.is_changed()
    file.write_text(file.read_text().replace("reports", "reporta"))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))  # as cp -p and rsync -t do
    assert file.stat().st_size == before.st_size
    assert is_changed(keys)
    keys.read()
    assert not is_changed(keys)
    file.chmod(0o640)  # so that it can be read again
    assert is_changed(keys)


def test_what_is_being_written_is_left_until_it_is_whole(file):
    create_key(file, "reports", [])
    create_key(file, "other", [])
    keys = APIKeys(file)
    whole = file.read_text()
    with file.open("w") as opened:  # in place, as editors and `cp` do
        assert not keys.is_changed()
        opened.write(whole[: whole.rindex("- id")])  # a good file, and not all of it
        opened.flush()
        assert not keys.is_changed()
        opened.write(whole[whole.rindex("- id") :])
    assert not keys.is_changed()
    assert keys.is_changed()
    assert len(keys.read()) == 2


@pytest.mark.parametrize("text", ["", "# API keys of Prism\n"])
def test_a_file_that_was_emptied_takes_nobody_s_key_away(file, text):
    create_key(file, "reports", [])
    keys = APIKeys(file)
    file.write_text(text)
    for use in (keys.read, lambda: APIKeys(file)):
        with pytest.raises(ConfigError, match=r"keys.yaml: the file is empty; `keys: \[\]` says"):
            use()
    file.write_text("keys: []\n")
    assert keys.read() == []
    file.write_text("")
    create_key(file, "reports", [])
    assert len(keys.read()) == 1


def test_what_cannot_be_done_changes_nothing(file):
    create_key(file, "reports", [])
    before = file.read_text()
    with pytest.raises(KeyFileError, match="has no key 'abc'"):
        revoke_key(file, "abc")
    for name in ("", "anonymous", " x", "a\nb", "x" * 257):
        with pytest.raises(KeyFileError, match="cannot name a principal"):
            create_key(file, name, [])
    assert file.read_text() == before
    assert [path.name for path in file.parent.iterdir()] == ["keys.yaml"]


def test_two_editors_lose_no_key(file):
    threads = [
        threading.Thread(target=create_key, args=(file, f"p{number}", [])) for number in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(entry.principal for entry in read_keys(file)) == [f"p{n}" for n in range(8)]


def test_a_file_that_is_wrong_is_refused_with_its_lines(file):
    with pytest.raises(ConfigError, match="is not there; `prism key create` makes one"):
        APIKeys(file)
    create_key(file, "reports", [])
    good = file.read_text()
    (entry,) = read_keys(file)
    for text, problem in [
        (good.replace("sha256:", ""), r"keys\[0\]\.hash"),
        (good.replace("reports", "anonymous"), "it stands for nobody"),
        (good.replace("- id", "- key: x\n  id"), 'key "key" is not known|unknown|no key'),
        (good + good.split("keys:\n")[1], "another key has this id"),
        (good.replace(entry.created, "2026-02-31"), "there is no day 2026-02-31"),
    ]:
        file.write_text(text)
        with pytest.raises(ConfigError, match=problem):
            read_keys(file)
