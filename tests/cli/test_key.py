"""prism key, by what it prints and writes."""

import json
import re
import time

from click.testing import CliRunner

from prism.access.api_keys import APIKeys
from prism.cli.main import prism


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


def test_as_json(tmp_path):
    made = json.loads(run("create", "reports", "-f", tmp_path / "k", "-o", "json").stdout)
    assert APIKeys(tmp_path / "k").identify(made["key"].encode(), 0.0).key == made["id"]


def test_a_day_that_there_is_not(tmp_path):
    refused = run("create", "reports", "--expires", "2030-02-30", "-f", tmp_path / "k")
    assert refused.exit_code == 2
    assert "'2030-02-30' is no day" in refused.output
    assert not (tmp_path / "k").exists()
