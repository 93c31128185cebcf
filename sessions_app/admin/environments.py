"""The environments' pages, with figures from sessions: how well the warm pools do."""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse

from environments_app.admin import EnvironmentAdmin
from environments_app.exporting import environments_yaml
from environments_app.models import Environment
from sessions_app.admin.builds import BuildPages
from sessions_app.admin.columns import column, operation
from sessions_app.admin.history import KeptByItsSessions
from sessions_app.formats import percent
from sessions_app.services.warm_sandboxes import with_pools

admin.site.unregister(Environment)


@admin.register(Environment)
class PooledEnvironmentAdmin(BuildPages, KeptByItsSessions, EnvironmentAdmin):
    actions_list = ("export",)
    list_display = (*EnvironmentAdmin.list_display, "warm", "hits")
    readonly_fields = (*EnvironmentAdmin.readonly_fields, "warm", "hits")
    fieldsets = tuple(
        (title, {**options, "fields": (*options["fields"], "warm", "hits")})
        if title == "Sandboxes"
        else (title, options)
        for title, options in EnvironmentAdmin.fieldsets
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Environment]:
        return with_pools(super().get_queryset(request))

    @operation("Export as YAML", icon="download", url_path="export")
    def export(self, request: HttpRequest) -> HttpResponse:
        """All environments, as a file that `seed_environments` takes back."""
        try:
            text = environments_yaml()
        except ValueError as error:
            self.message_user(request, str(error), messages.ERROR)
            return HttpResponseRedirect(reverse("admin:environments_app_environment_changelist"))
        named = {"Content-Disposition": 'attachment; filename="environments.yaml"'}
        return HttpResponse(text, "application/yaml; charset=utf-8", headers=named)

    @column("Warm now", ordering="warm_now")
    def warm(self, environment: Any) -> str:
        if environment.pk is None:
            return "-"
        size, ceiling = environment.warm_pool_size, environment.warm_pool_ceiling
        kept = f"{size} to {ceiling}" if ceiling > size else size
        return f"{environment.warm_now}, each node keeps {kept}"

    @column("Pool's hit rate", ordering="hit_rate")
    def hits(self, environment: Any) -> str:
        """The last day's sessions that got a warm sandbox."""
        return "-" if environment.pk is None else percent(environment.hit_rate)
