"""What keeps other sites' pages away from a service that asks nobody for a key.

With API_AUTH=open the service listens on loopback: but the browser of whoever sits at this machine
reaches it too, and runs any site's scripts. So such a service answers under loopback names alone,
which no other site can have (DNS rebinding), and refuses what a browser says comes from a page that
is neither its own nor one of CORS_ORIGINS.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from django.conf import settings
from django.http import HttpRequest

from codeexec.configuration import is_loopback
from codeexec.errors import ForeignHost, ForeignOrigin
from codeexec.http.policies import API_PATHS

_ELSEWHERE = ("cross-site", "same-site")
"""Of Sec-Fetch-Site, which no script can forge. A page on another port is `same-site`."""


def require_local(request: HttpRequest) -> None:
    """Raises ForeignHost and ForeignOrigin; with API_AUTH=key nothing is refused here."""
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
            f"This service is open to its own machine only, and answers to 127.0.0.1 and localhost;"
            f" {name!r} would have to be one of ALLOWED_HOSTS."
        )


def _require_own_page(request: HttpRequest) -> None:
    origin = request.headers.get("Origin")
    if origin in settings.CORS_ALLOWED_ORIGINS:
        return
    own = f"{request.scheme}://{request.get_host()}"
    elsewhere = request.headers.get("Sec-Fetch-Site") in _ELSEWHERE
    if elsewhere or origin not in (None, own):
        raise ForeignOrigin(
            "This service is open to its own pages only; a page of another origin may call it when "
            "CORS_ORIGINS names that."
        )
