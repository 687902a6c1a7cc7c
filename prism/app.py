"""Floor 5: the wiring. Builds the proxy from a configuration and runs it."""
