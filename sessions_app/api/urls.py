from django.urls import path, register_converter
from django.urls.converters import UUIDConverter

from sessions_app.api.async_views import at_once
from sessions_app.api.long_polls import waiting_where_asked
from sessions_app.api.run_answers import waiting_for_end, waiting_for_result
from sessions_app.api.streams import streaming
from sessions_app.api.views import (
    EnvironmentViewSet,
    ExecutionViewSet,
    HealthViewSet,
    SessionViewSet,
    read_health,
)
from sessions_app.api.workspace_answers import waiting_for_answer
from sessions_app.monitoring.readiness import read_readiness


class IdConverter(UUIDConverter):
    """Ids in addresses, in upper or lower case."""

    regex = r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"


register_converter(IdConverter, "id")

execute = waiting_for_result(SessionViewSet.as_view({"post": "execute"}))
run_once = waiting_for_result(ExecutionViewSet.as_view({"post": "run_once"}))
execution = waiting_where_asked(ExecutionViewSet.as_view({"get": "retrieve"}))
cancel = waiting_for_end(ExecutionViewSet.as_view({"post": "cancel"}))
session_events = streaming(SessionViewSet.as_view({"get": "events"}))
execution_events = streaming(ExecutionViewSet.as_view({"get": "events"}))

files = waiting_for_answer(SessionViewSet.as_view({"get": "files"}))
file = waiting_for_answer(SessionViewSet.as_view({"get": "file"}))
archive = waiting_for_answer(SessionViewSet.as_view({"get": "archive"}))
health = at_once(HealthViewSet.as_view({"get": "retrieve"}), read_health)
live = at_once(HealthViewSet.as_view({"get": "live"}))
ready = at_once(HealthViewSet.as_view({"get": "ready"}), read_readiness)

urlpatterns = [
    path("health", health),
    path("health/live", live),
    path("health/ready", ready),
    path("environments", EnvironmentViewSet.as_view({"get": "names"})),
    path("environments/<slug:name>", EnvironmentViewSet.as_view({"get": "retrieve"})),
    path("execute", run_once),
    path("executions", ExecutionViewSet.as_view({"get": "index"})),
    path("executions/<id:execution_id>", execution),
    path("executions/<id:execution_id>/cancel", cancel),
    path("executions/<id:execution_id>/stdin", ExecutionViewSet.as_view({"post": "stdin"})),
    path("executions/<id:execution_id>/events", execution_events),
    path("sessions", SessionViewSet.as_view({"get": "index", "post": "create"})),
    path(
        "sessions/<id:session_id>",
        SessionViewSet.as_view({"get": "retrieve", "patch": "partial_update", "delete": "destroy"}),
    ),
    path("sessions/<id:session_id>/reset", SessionViewSet.as_view({"post": "reset"})),
    path("sessions/<id:session_id>/files", files),
    path("sessions/<id:session_id>/files/<path:path>", file),
    path("sessions/<id:session_id>/archive", archive),
    path("sessions/<id:session_id>/execute", execute),
    path("sessions/<id:session_id>/events", session_events),
    path("sessions/<id:session_id>/tokens", SessionViewSet.as_view({"post": "tokens"})),
    path("sessions/<id:session_id>/executions", SessionViewSet.as_view({"get": "executions"})),
]
