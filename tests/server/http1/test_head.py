import pytest

from prism.server.http1.head import origin_form


@pytest.mark.parametrize(
    ("target", "path", "host"),
    [
        (b"/x?y", b"/x?y", b"a"),
        (b"http://b/x?y", b"/x?y", b"b"),
        (b"HTTPS://b:1", b"/", b"b:1"),
        (b"http://b?y", b"/?y", b"b"),
        (b"http://b//x", b"//x", b"b"),
        (b"http:///x", b"http:///x", b"a"),  # refused later: no path
        (b"http://u@b/x", b"http://u@b/x", b"a"),
        (b"http://b/x#y", b"http://b/x#y", b"a"),
        (b"ftp://b/x", b"ftp://b/x", b"a"),
    ],
)
def test_the_origin_form_of_a_target(target, path, host):
    headers = [(b"x", b"y"), (b"host", b"a")]
    found, changed = origin_form(target, headers)
    assert (found, sorted(changed)) == (path, [(b"host", host), (b"x", b"y")])
