"""Keeps other sites' pages away from a service that needs no key.

With API_AUTH=open the service listens on loopback. But browsers on this machine reach it too, and
they run any site's scripts. So such a service answers only to loopback names, which no other site
can have (DNS rebinding), and refuses calls of pages that, as the browser reports, are neither its
own nor of CORS_ORIGINS.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from django.conf import settings
from django.http import HttpRequest

from codeexec.configuration import is_loopback
from codeexec.errors import ForeignHost, ForeignOrigin
from codeexec.http.policies import API_PATHS

_ELSEWHERE = ("cross-site", "same-site")
"""Values of Sec-Fetch-Site, which no script can forge. A page on another port is `same-site`."""


def require_local(request: HttpRequest) -> None:
    """Raises ForeignHost and ForeignOrigin; with API_AUTH=key it does nothing."""
    if settings.CODE_EXECUTOR["API_AUTH"] != "open":
        return
    _require_own_name(request)
    if request.path_info.startswith(API_PATHS):  # the console has tokens against forged forms
        _require_own_page(request)


def _require_own_name(request: HttpRequest) -> None:
    host = request.get_host()
    name = urlsplit(f"//{host}").hostname or ""
    named = [allowed.lower() for allowed in settings.ALLOWED_HOSTS if allowed != "*"]
    if not is_loopback(name) and name not in named:
        raise ForeignHost(
            "This service is open only to its own machine, as 127.0.0.1 or localhost. Add "
            f"{name!r} to ALLOWED_HOSTS to use that name."
        )


def _require_own_page(request: HttpRequest) -> None:
    origin = request.headers.get("Origin")
    if origin in settings.CORS_ALLOWED_ORIGINS:
        return
    own = f"{request.scheme}://{request.get_host()}"
    elsewhere = request.headers.get("Sec-Fetch-Site") in _ELSEWHERE
    if elsewhere or origin not in (None, own):
        raise ForeignOrigin(
            "This service is open only to its own pages. To call it from another "
            "page, add the page's origin to CORS_ORIGINS."
        )
