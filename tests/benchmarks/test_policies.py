"""What the proxies are configured with whose policies are measured."""

import pytest
import yaml

from benchmarks.questions.policies import AT_ONCE, POLICIES, REFUSED, configured
from benchmarks.sides import prism
from prism.config import parse_config


@pytest.mark.parametrize("settings", [*POLICIES.values(), *REFUSED.values(), AT_ONCE])
def test_each_is_a_configuration(settings):
    namespace, outside = configured(prism.echo("echo", prism.SPAWNED), settings)
    parse_config(yaml.safe_dump({"namespaces": [namespace], **outside}), "prism.yaml")
