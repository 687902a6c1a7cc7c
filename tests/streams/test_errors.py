"""Which line of a plugin's last output is told as the reason for its end."""

import pytest

from prism.streams.errors import LaunchError, telling_line

NODE = """\
node:internal/modules/esm/resolve:283
    throw new ERR_MODULE_NOT_FOUND(
          ^

Error [ERR_MODULE_NOT_FOUND]: Cannot find module '/opt/orders/nothing.js'
    at finalizeResolution (node:internal/modules/esm/resolve:283:11)
    at async ModuleJob._link (node:internal/modules/esm/module_job:116:19) {
  code: 'ERR_MODULE_NOT_FOUND'
}

Node.js v20.20.2
"""
JAVA = """\
Exception in thread "main" java.lang.IllegalStateException: no driver
\tat orders.Orders.main(Orders.java:7)
\t... 12 more
"""
PYTHON = """\
Traceback (most recent call last):
  File "orders.py", line 1, in <module>
    import nothing
ModuleNotFoundError: No module named 'nothing'

"""


@pytest.mark.parametrize(
    ("output", "line"),
    [
        (NODE, "Error [ERR_MODULE_NOT_FOUND]: Cannot find module '/opt/orders/nothing.js'"),
        (JAVA, 'Exception in thread "main" java.lang.IllegalStateException: no driver'),
        (PYTHON, "ModuleNotFoundError: No module named 'nothing'"),
        ("usage: orders\n  no such option", "no such option"),
        ("\tat orders.Orders.main(Orders.java:7)\n", "at orders.Orders.main(Orders.java:7)"),
        (" \n", ""),
    ],
)
def test_the_line_that_names_the_cause(output, line):
    assert telling_line(output.splitlines()) == line
    told = f"it ended; the last that it wrote: {line}" if line else "it ended"
    assert LaunchError("it ended", output=output.splitlines()).explained == told
