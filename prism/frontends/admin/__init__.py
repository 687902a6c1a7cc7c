"""The admin port: what operators, Prometheus and orchestrators ask and tell the proxy.

`routes` lists all there is; each answer is made in `answers` or `follow`, from and into the
types of `messages`. `app` is the front end around them, `access` decides who may, and `openapi`
describes the routes to programs.
"""

from prism.frontends.admin.access import Access, AdminToken, Right
from prism.frontends.admin.app import AdminApp
from prism.frontends.admin.call import Administered, Restarting

__all__ = ["Access", "AdminApp", "AdminToken", "Administered", "Restarting", "Right"]
