"""Which word of a command is the plugin."""

import pytest

from prism.verification.command import take_apart


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "plugin.x"
    path.touch()
    return str(path)


@pytest.mark.parametrize(
    ("words", "entry"),
    [
        (["python3", "S"], 1),
        (["python3.11", "-I", "-B", "S", "data"], 3),
        (["python3", "-W", "error", "-Xdev", "S"], 4),
        (["python3", "-W", "error", "-X", "dev", "S"], 5),
        (["python3", "-Ximporttime", "S"], None),  # read as a bundle that has -m in it
        (["python3", "-m", "S"], None),
        (["python3", "-Bm", "S"], None),
        (["python3", "-c", "S"], None),
        (["python3", "-"], None),
        (["python3"], None),
        (["python3", "not-there.py"], None),
        (["node", "--no-warnings", "S"], 2),
        (["node", "-r", "./hook.js", "S"], 3),
        (["node", "-e", "S"], None),
        (["sh", "S"], 1),
        (["sh", "-e", "S"], 2),
        (["sh", "-ec", "S"], None),
        (["bash", "-o", "pipefail", "S"], 3),
        (["perl", "-w", "S"], 2),
        (["./own-program", "S"], 0),
    ],
)
def test_the_plugin_s_own_word(script, tmp_path, words, entry):
    folder = tmp_path / "bin"
    folder.mkdir()
    own = folder / words[0]
    own.touch(0o755)
    own.chmod(0o755)
    words = [script if word == "S" else word for word in words]
    found = take_apart(words, None, str(folder), str(folder))
    assert found.program == str(folder / own.name) or found.program.endswith("/own-program")
    assert found.entry == entry
    assert (found.entry_path is None) == (entry is None)


def test_a_name_is_looked_up_as_the_kernel_would(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, mode in (("a", 0o644), ("b", 0o755), ("c", 0o755)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run").touch()
        (tmp_path / name / "run").chmod(mode)
    (tmp_path / "d" / "run").mkdir(parents=True)
    path = f"{tmp_path}/none:{tmp_path}/d:a:{tmp_path}/b:{tmp_path}/c"
    assert take_apart(["run"], None, None, path).program == str(tmp_path / "b" / "run")
    assert take_apart(["none"], None, None, path).program is None
    assert take_apart(["./run"], None, str(tmp_path / "c"), path).program == f"{tmp_path}/c/./run"
