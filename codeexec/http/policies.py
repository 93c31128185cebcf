"""What each page may load and run: the Content-Security-Policy, and the Permissions-Policy of all.

No page runs a script that stands in the page itself, or one from another server, so that text of a
candidate's that ever slipped through unescaped would still be nothing but text. What is no page has
no use for anything.
"""

from __future__ import annotations

from collections.abc import Mapping

Directives = Mapping[str, str]

API_PATHS = "/api/"

_NOTHING: Directives = {
    "default-src": "'none'",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
}
_PAGE: Directives = {
    **_NOTHING,
    "connect-src": "'self'",
    "font-src": "'self'",
    "form-action": "'self'",
    "img-src": "'self' data:",
    "script-src": "'self'",
    "style-src": "'self'",
}
# Alpine, on which the console's theme is built, makes functions of the expressions in the theme's
# attributes, and the theme has its colours in the page: no build of it does without.
_CONSOLE: Directives = {
    **_PAGE,
    "script-src": "'self' 'unsafe-eval'",
    "style-src": "'self' 'unsafe-inline'",
}
# Both draw themselves with styles of their own; ReDoc searches in a worker that it makes itself.
_SWAGGER: Directives = {**_PAGE, "style-src": "'self' 'unsafe-inline'"}
_REDOC: Directives = {**_SWAGGER, "worker-src": "blob:"}

_unused = (
    "accelerometer autoplay camera display-capture encrypted-media fullscreen geolocation "
    "gyroscope hid magnetometer microphone midi payment publickey-credentials-get "
    "screen-wake-lock serial usb web-share xr-spatial-tracking"
)
PERMISSIONS_POLICY = ", ".join(f"{feature}=()" for feature in _unused.split())


def _text(directives: Directives) -> str:
    return "; ".join(f"{name} {sources}" for name, sources in directives.items())


_API = _text(_NOTHING)
_POLICIES = {
    "/": _text(_PAGE),
    "/docs": _text(_SWAGGER),
    "/redoc": _text(_REDOC),
}
_CONSOLE_POLICY = _text(_CONSOLE)


def content_security_policy(path: str) -> str:
    """That of an address below the service's root."""
    if path.startswith("/admin/"):
        return _CONSOLE_POLICY
    return _POLICIES.get(path, _API)
