"""The admin port: what operators, Prometheus and orchestrators ask and tell the proxy.

`routes` lists all there is; each answer is made in `reads`, `operations`, `configuration`
or `follow`, from and into the types of `messages`. `app` is the ASGI application around
them, `access` decides who may, `token` is its key. `openapi` describes the routes to programs.
"""

from prism.frontends.admin.access import Access, Right
from prism.frontends.admin.app import AdminApp
from prism.frontends.admin.call import Administered
from prism.frontends.admin.token import AdminToken

__all__ = ["Access", "AdminApp", "AdminToken", "Administered", "Right"]
