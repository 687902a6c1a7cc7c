from prism.config.errors import ConfigError, ConfigProblem, Report, clip, path_text


def test_a_problem_says_as_much_of_its_place_as_is_known() -> None:
    assert str(ConfigProblem("f", 3, 5, "listen.port", "no")) == "f:3:5: listen.port: no"
    assert str(ConfigProblem("f", 3, 5, "", "no")) == "f:3:5: no"
    assert str(ConfigProblem("f", 0, 0, "credentials.a", "no")) == "f: credentials.a: no"
    assert str(ConfigError([ConfigProblem("f", 0, 0, "", t) for t in "ab"])) == "f: a\nf: b"


def test_a_path_as_it_is_shown() -> None:
    assert path_text(()) == ""
    assert path_text(("namespaces", 0, "plugin", "type")) == "namespaces[0].plugin.type"
    assert path_text((0, 1, "a")) == "[0][1].a"
    assert path_text(("a\n\x1b[0m" + "b" * 50,)) == "a  [0m" + "b" * 33 + "…"


def test_a_long_text_is_cut_and_on_one_line() -> None:
    assert clip("a" * 40) == "a" * 40
    assert clip("a" * 41) == "a" * 39 + "…"
    assert clip("a\tb\n") == "a b "


def test_what_is_above_an_error_is_not_sound_and_what_is_beside_it_is() -> None:
    report = Report("f")
    report.error((1, 1), ("a", 0, "b"), "wrong")
    report.warning((2, 1), ("c",), "odd")
    report.error((3, 1), ("d",), "twice", usable=True)
    assert not any(report.is_sound(path) for path in [(), ("a",), ("a", 0), ("a", 0, "b")])
    assert all(report.is_sound(path) for path in [("a", 1), ("a", 0, "c"), ("c",), ("d",)])
    assert list(map(str, report.errors)) == ["f:1:1: a[0].b: wrong", "f:3:1: d: twice"]
    assert list(map(str, report.warnings)) == ["f:2:1: c: odd"]


def test_a_fault_that_aliases_repeat_is_told_once_and_breaks_every_use() -> None:
    report = Report("f")
    for name in ("a", "b"):
        report.error((1, 1), (name,), "wrong")
    assert [str(problem) for problem in report.errors] == ["f:1:1: a: wrong"]
    assert not report.is_sound(("b",))
