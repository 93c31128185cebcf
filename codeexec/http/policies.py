"""What each page may load and run: its Content-Security-Policy, and a Permissions-Policy for all.

No page runs inline scripts or scripts from another server: should a candidate's text ever appear
unescaped, it would still be only text. Answers that aren't pages may load nothing.
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
# The console's theme uses Alpine, which compiles expressions in attributes to functions, and it has
# its colours in the page. There is no build of it that works without.
_CONSOLE: Directives = {
    **_PAGE,
    "script-src": "'self' 'unsafe-eval'",
    "style-src": "'self' 'unsafe-inline'",
}
# Both use inline styles; ReDoc searches in a worker that it creates from a blob.
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
    """The policy for a path below the service's root."""
    if path.startswith("/admin/"):
        return _CONSOLE_POLICY
    return _POLICIES.get(path, _API)
