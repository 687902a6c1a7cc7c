"""The data plane over HTTP: ``POST /v1/{namespace}/{operation}`` and its siblings."""

from prism.frontends.rest.app import RestApp

__all__ = ["RestApp"]
