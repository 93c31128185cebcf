"""How the operators' console looks and what its sidebar holds: the `UNFOLD` setting.

Imported by the settings, so nothing here may import a model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.http import HttpRequest
from django.templatetags.static import static
from django.urls import reverse_lazy


def _item(title: str, icon: str, model: str) -> dict[str, Any]:
    """A link to a model's list, for those who may see it. `model` is `<app label>_<model>`."""
    return {
        "title": title,
        "icon": icon,
        "link": reverse_lazy(f"admin:{model}_changelist"),
        "permission": _may_view(model),
    }


def _may_view(model: str) -> Callable[[HttpRequest], bool]:
    app, _, name = model.rpartition("_")

    def permission(request: HttpRequest) -> bool:
        user = request.user
        return user.has_perm(f"{app}.view_{name}") or user.has_perm(f"{app}.change_{name}")

    return permission


def _group(title: str, *items: dict[str, Any]) -> dict[str, Any]:
    return {"title": title, "items": list(items)}


def _asset(path: str) -> Callable[[HttpRequest], str]:
    return lambda request: static(path)


_PRIMARY = {
    "50": "oklch(98.4% .014 180.72)",
    "100": "oklch(95.3% .051 180.801)",
    "200": "oklch(91% .096 180.426)",
    "300": "oklch(85.5% .138 181.071)",
    "400": "oklch(77.7% .152 181.912)",
    "500": "oklch(64% .123 183)",
    "600": "oklch(54.5% .104 184)",
    "700": "oklch(47.5% .09 185.5)",
    "800": "oklch(43.7% .078 188.216)",
    "900": "oklch(38.6% .063 188.416)",
    "950": "oklch(27.7% .046 192.524)",
}

UNFOLD: dict[str, Any] = {
    "SITE_TITLE": "Code Executor",
    "SITE_HEADER": "Code Executor",
    "SITE_SUBHEADER": "Operators' console",
    "SITE_URL": "/",
    "SITE_SYMBOL": "terminal",
    "SITE_FAVICONS": [{"rel": "icon", "type": "image/svg+xml", "href": _asset("favicon.svg")}],
    "SHOW_VIEW_ON_SITE": False,
    "LOGIN": {"form": "sessions_app.access.console_login.LoginForm"},
    "COLORS": {"primary": _PRIMARY},
    "STYLES": [_asset("css/admin.css")],
    "DASHBOARD_CALLBACK": "sessions_app.admin.dashboard.dashboard",
    "SIDEBAR": {
        "navigation": [
            {
                "items": [
                    {
                        "title": "Dashboard",
                        "icon": "monitoring",
                        "link": reverse_lazy("admin:index"),
                    }
                ]
            },
            _group(
                "Runs",
                _item("Sessions", "group_work", "sessions_app_session"),
                _item("Executions", "play_circle", "sessions_app_execution"),
            ),
            _group(
                "Sandboxes",
                _item("Environments", "deployed_code", "environments_app_environment"),
                _item("Sandboxes", "inventory_2", "sessions_app_sandbox"),
                _item("Nodes", "dns", "sessions_app_node"),
                _item("Isolation checks", "shield", "sessions_app_isolationcheck"),
            ),
            _group(
                "Queue",
                _item("Scheduled tasks", "schedule", "django_q_schedule"),
                _item("Queued tasks", "mail", "django_q_ormq"),
                _item("Failed tasks", "error", "django_q_failure"),
            ),
            _group(
                "Access",
                _item("Clients", "key", "sessions_app_client"),
                _item("API keys", "vpn_key", "sessions_app_apikey"),
                _item("Users", "person", "auth_user"),
                _item("Groups", "group", "auth_group"),
                _item("Failed logins", "lock_clock", "sessions_app_failedlogin"),
                _item("Audit log", "history_edu", "audit_auditentry"),
            ),
        ]
    },
}
