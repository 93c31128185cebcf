"""Addresses of the whole service."""

from django.contrib import admin
from django.urls import include, path
from django.views.generic import TemplateView
from drf_spectacular.views import SpectacularAPIView, SpectacularRedocView, SpectacularSwaggerView

from sessions_app.metrics import metrics

urlpatterns = [
    path("", TemplateView.as_view(template_name="index.html"), name="index"),
    path("api/v1/", include("sessions_app.api.urls")),
    path("api/schema", SpectacularAPIView.as_view(), name="schema"),
    path("metrics", metrics, name="metrics"),
    path("docs", SpectacularSwaggerView.as_view(url_name="schema"), name="docs"),
    path("redoc", SpectacularRedocView.as_view(url_name="schema"), name="redoc"),
    path("admin/", admin.site.urls),
]

handler400 = "codeexec.errors.bad_request"
handler404 = "codeexec.errors.page_not_found"
handler500 = "codeexec.errors.server_error"
