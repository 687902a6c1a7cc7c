"""Floor 4: namespaces, the policy stack, routing, observability, configuration."""
