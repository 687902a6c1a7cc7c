"""Servers that these tests share with others."""

from tests.services.fixtures import kafka, postgres18, shared_server

__all__ = ["kafka", "postgres18", "shared_server"]
