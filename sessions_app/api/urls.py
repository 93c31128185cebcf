from typing import Any

from django.urls import path

from sessions_app.api.streams import streaming
from sessions_app.api.views import (
    EnvironmentViewSet,
    ExecutionViewSet,
    HealthViewSet,
    SessionViewSet,
)
from sessions_app.api.waiting import waiting_for_end, waiting_for_result

execute: Any = waiting_for_result(SessionViewSet.as_view({"post": "execute"}))
run_once: Any = waiting_for_result(ExecutionViewSet.as_view({"post": "run_once"}))
cancel: Any = waiting_for_end(ExecutionViewSet.as_view({"post": "cancel"}))
session_events: Any = streaming(SessionViewSet.as_view({"get": "events"}))
execution_events: Any = streaming(ExecutionViewSet.as_view({"get": "events"}))

urlpatterns = [
    path("health", HealthViewSet.as_view({"get": "retrieve"})),
    path("environments", EnvironmentViewSet.as_view({"get": "names"})),
    path("environments/<slug:name>", EnvironmentViewSet.as_view({"get": "retrieve"})),
    path("execute", run_once),
    path("executions/<uuid:execution_id>", ExecutionViewSet.as_view({"get": "retrieve"})),
    path("executions/<uuid:execution_id>/cancel", cancel),
    path("executions/<uuid:execution_id>/events", execution_events),
    path("sessions", SessionViewSet.as_view({"get": "index", "post": "create"})),
    path(
        "sessions/<uuid:session_id>",
        SessionViewSet.as_view({"get": "retrieve", "delete": "destroy"}),
    ),
    path("sessions/<uuid:session_id>/execute", execute),
    path("sessions/<uuid:session_id>/events", session_events),
    path("sessions/<uuid:session_id>/tokens", SessionViewSet.as_view({"post": "tokens"})),
    path("sessions/<uuid:session_id>/executions", SessionViewSet.as_view({"get": "executions"})),
]
