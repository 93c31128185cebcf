"""Addresses of the whole service."""

from django.conf import settings
from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import include, path
from drf_spectacular.views import SpectacularRedocView, SpectacularSwaggerSplitView

from sessions_app.admin.dashboard import dashboard_region
from sessions_app.admin.object_history import object_history
from sessions_app.admin.streams import execution_events, session_events
from sessions_app.api.metrics import metrics
from sessions_app.api.schema_view import api_schema


def robots(request: HttpRequest) -> HttpResponse:
    """Nothing here is for search engines."""
    return HttpResponse("User-agent: *\nDisallow: /\n", content_type="text/plain")


def index(request: HttpRequest) -> HttpResponse:
    """The page to try the service on. It asks for a key where the API does."""
    needs_key = settings.CODE_EXECUTOR["API_AUTH"] == "key"
    return render(request, "index.html", {"needs_key": needs_key})


urlpatterns = [
    path("", index, name="index"),
    path("api/v1/", include("sessions_app.api.urls")),
    path("api/schema", api_schema, name="schema"),
    path("metrics", metrics, name="metrics"),
    path("docs", SpectacularSwaggerSplitView.as_view(url_name="schema"), name="docs"),
    path("redoc", SpectacularRedocView.as_view(url_name="schema"), name="redoc"),
    path("robots.txt", robots, name="robots"),
    path("admin/sessions_app/session/<uuid:row_id>/events", session_events, name="session_events"),
    path(
        "admin/sessions_app/execution/<uuid:row_id>/events",
        execution_events,
        name="execution_events",
    ),
    path("admin/dashboard/<slug:name>", dashboard_region, name="dashboard_region"),
    path(
        "admin/<slug:app>/<slug:model>/<path:object_id>/history/",
        object_history,
        name="object_history",
    ),
    path("admin/", admin.site.urls),
]

handler400 = "codeexec.http.error_answers.bad_request"
handler403 = "codeexec.http.error_answers.permission_denied"
handler404 = "codeexec.http.error_answers.page_not_found"
handler500 = "codeexec.http.error_answers.server_error"
