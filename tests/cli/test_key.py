"""prism key, by what it prints and writes."""

import json
import re
import time

import pytest
from click.testing import CliRunner

from prism.access.api_keys import APIKeys, KeyFileError, create_key, today
from prism.cli.main import prism
from prism.contract.errors import PrismError


def run(*words):
    return CliRunner().invoke(prism, ["key", *map(str, words)], catch_exceptions=False)


def test_create_list_and_revoke(tmp_path):
    file = tmp_path / "keys.yaml"
    made = run("create", "reports", "--group", "billing", "--expires", "2035-01-01", "-f", file)
    key = made.stdout.strip()
    found = APIKeys(file).identify(key.encode(), time.time())
    assert (found.name, found.groups) == ("reports", {"billing"})
    (listed,) = json.loads(run("list", "-f", file, "-o", "json").stdout)
    assert (listed["principal"], listed["expires"]) == ("reports", "2035-01-01")
    assert key[-64:] not in run("list", "-f", file).stdout
    assert (
        run("revoke", listed["id"], "-f", file).stdout
        == f"The key {listed['id']} of reports is revoked\n"
    )
    assert APIKeys(file).identify(key.encode(), time.time()) is None
    assert re.search(r"reports .*2035-01-01 +\d{4}-", run("list", "-f", file).stdout)


def test_who_names_the_principal_is_told_the_ids_of_its_keys(tmp_path):
    file = tmp_path / "keys.yaml"
    ids = [
        json.loads(run("create", "reports", "-f", file, "-o", "json").stdout)["id"]
        for _ in range(2)
    ]
    while ids:
        left = ", ".join(ids)
        with pytest.raises(PrismError, match=f"its id; 'reports' is a principal, .* are {left}$"):
            run("revoke", "reports", "-f", file)
        run("revoke", ids.pop(0), "-f", file)
    with pytest.raises(PrismError, match="'reports' is a principal, whose keys are all revoked"):
        run("revoke", "reports", "-f", file)
    with pytest.raises(PrismError, match="has no key 'nobody'"):
        run("revoke", "nobody", "-f", file)


def test_as_json(tmp_path):
    made = json.loads(run("create", "reports", "-f", tmp_path / "k", "-o", "json").stdout)
    assert APIKeys(tmp_path / "k").identify(made["key"].encode(), 0.0).key == made["id"]


def test_a_day_that_there_is_not(tmp_path):
    refused = run("create", "reports", "--expires", "2030-02-30", "-f", tmp_path / "k")
    assert refused.exit_code == 2
    assert "'2030-02-30' is no day" in refused.output
    assert not (tmp_path / "k").exists()


def test_a_last_day_that_is_over(tmp_path):
    refused = run("create", "reports", "--expires", "2020-01-31", "-f", tmp_path / "k")
    assert refused.exit_code == 2
    assert "--expires 2020-01-31 is over: today is " in refused.output
    assert not (tmp_path / "k").exists()
    assert run("create", "reports", "--expires", today(), "-f", tmp_path / "k").exit_code == 0


def test_a_key_that_has_expired_is_listed_so(tmp_path):
    create_key(tmp_path / "k", "reports", [], "2020-01-31")
    create_key(tmp_path / "k", "crawler", [], "2999-01-31")
    said = run("list", "-f", tmp_path / "k").stdout
    assert re.search(r"reports .* 2020-01-31 \(expired\)", said)
    assert re.search(r"crawler .* 2999-01-31 +-", said)
    assert (
        json.loads(run("list", "-f", tmp_path / "k", "-o", "json").stdout)[0]["expires"]
        == "2020-01-31"
    )


def test_a_principal_without_a_name(tmp_path):
    with pytest.raises(KeyFileError, match="'' cannot name a principal: it is empty"):
        run("create", "", "-f", tmp_path / "k")


@pytest.mark.parametrize("words", [("create", "reports"), ("revoke", "0" * 12)])
def test_a_file_where_no_directory_is(tmp_path, words):
    file = tmp_path / "missing" / "keys.yaml"
    with pytest.raises(KeyFileError) as caught:
        run(*words, "-f", file)
    assert str(caught.value) == f"cannot write {file}: {file.parent}: No such file or directory"


def test_a_file_that_cannot_be_made():
    with pytest.raises(KeyFileError, match=r"^cannot write /proc/x\.yaml: "):
        run("create", "reports", "-f", "/proc/x.yaml")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["bob", "--group", "group:billing"], "named without its prefix here: 'billing'"),
        (["group:bob"], "in rules it means others"),
        (["bob*"], "in rules it means others"),
    ],
)
def test_names_that_rules_would_read_otherwise(tmp_path, arguments, said):
    file = tmp_path / "keys.yaml"
    done = CliRunner().invoke(prism, ["key", "create", *arguments, "-f", str(file)])
    assert done.exit_code == 1
    assert said in str(done.exception)
    assert not file.exists()
