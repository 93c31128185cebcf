from typing import Any

from django.urls import path

from sessions_app.api.views import (
    EnvironmentViewSet,
    ExecutionViewSet,
    HealthViewSet,
    SessionViewSet,
)
from sessions_app.api.waiting import at_once, waiting_for_result
from sessions_app.readiness import look_whether_ready

execute: Any = waiting_for_result(SessionViewSet.as_view({"post": "execute"}))
run_once: Any = waiting_for_result(ExecutionViewSet.as_view({"post": "run_once"}))
live: Any = at_once(HealthViewSet.as_view({"get": "live"}))
ready: Any = at_once(HealthViewSet.as_view({"get": "ready"}), look_whether_ready)

urlpatterns = [
    path("health", HealthViewSet.as_view({"get": "retrieve"})),
    path("health/live", live),
    path("health/ready", ready),
    path("environments", EnvironmentViewSet.as_view({"get": "names"})),
    path("environments/<slug:name>", EnvironmentViewSet.as_view({"get": "retrieve"})),
    path("execute", run_once),
    path("executions/<uuid:execution_id>", ExecutionViewSet.as_view({"get": "retrieve"})),
    path("sessions", SessionViewSet.as_view({"get": "index", "post": "create"})),
    path(
        "sessions/<uuid:session_id>",
        SessionViewSet.as_view({"get": "retrieve", "delete": "destroy"}),
    ),
    path("sessions/<uuid:session_id>/execute", execute),
    path("sessions/<uuid:session_id>/tokens", SessionViewSet.as_view({"post": "tokens"})),
    path("sessions/<uuid:session_id>/executions", SessionViewSet.as_view({"get": "executions"})),
]
