"""The console's first page: whether everything is well, who is running what, how it went lately.

Its regions refresh themselves, each at its own pace (static/js/refresh.js). Everything is read from
rows, and each part only for those who may see the rows that it is made of.

    now        what is wrong, who is running what, what waits
    period     how runs went over the last hour, day or week, and why some failed
    machines   nodes, warm pools, the last isolation checks
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.db.models import Model
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from sessions_app.admin.dashboard.machines import machines
from sessions_app.admin.dashboard.now import now
from sessions_app.admin.dashboard.period import period

Context = dict[str, Any]
MaySee = Callable[[type[Model]], bool]

REGIONS: dict[str, Callable[[MaySee, HttpRequest], Context]] = {
    "now": now,
    "period": period,
    "machines": machines,
}
"""What each shows to a user; empty if the user may see nothing of it."""


def may_see(request: HttpRequest) -> MaySee:
    def permission(model: type[Model]) -> bool:
        meta = model._meta
        return request.user.has_perm(f"{meta.app_label}.view_{meta.model_name}")

    return permission


def dashboard(request: HttpRequest, context: Context) -> Context:
    """The page's context: all of its regions. Unfold's DASHBOARD_CALLBACK."""
    for name, region in REGIONS.items():
        shown = region(may_see(request), request)
        context |= shown | {f"shows_{name}": bool(shown)}
    return context


@admin.site.admin_view
@require_safe
def dashboard_region(request: HttpRequest, name: str) -> HttpResponse:
    """One region of it, as it is now."""
    if name not in REGIONS:
        raise Http404
    shown = REGIONS[name](may_see(request), request)
    if not shown:
        raise PermissionDenied
    return render(request, f"admin/dashboard/{name}.html", shown)
