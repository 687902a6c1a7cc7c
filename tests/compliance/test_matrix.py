"""The page has what the suite has: each promise, each plugin, each deviation."""

from tests.compliance import matrix


def test_the_page_is_up_to_date() -> None:
    page = matrix.PAGE.read_text()
    again = matrix.replaced(page, matrix.render(matrix.expected()))
    assert page == again, "make generate-matrix"


def test_what_fails_shows() -> None:
    group, test, plugin, _ = first = matrix.expected()[0]
    row = f"| {matrix._words(test)} | {matrix.KEPT} |"
    assert row in matrix.render([first])
    for outcomes in ([], ["failed"], ["passed", "failed"]):
        results = [matrix.Result(group, test, plugin, outcome) for outcome in outcomes]
        assert f"| {matrix._words(test)} | {matrix.FAILED} |" in matrix.render(results)
