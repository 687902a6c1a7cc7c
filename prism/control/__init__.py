"""The configuration of a running proxy: what a change would do, and the change itself."""
