from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.views.decorators.http import require_safe
from prometheus_client import CONTENT_TYPE_LATEST

from codeexec.errors import DATABASE_AWAY, ServiceError
from codeexec.http.error_answers import database_away, error_answer
from sessions_app.api.authorization import Access, authorize
from sessions_app.callers import Scope
from sessions_app.monitoring.metrics import exposition


@require_safe
def metrics(request: HttpRequest) -> HttpResponse:
    """Prometheus' text format, for clients with the scope `metrics`."""
    try:
        authorize(request, Access(scope=Scope.METRICS))
        return HttpResponse(exposition(), content_type=CONTENT_TYPE_LATEST)
    except ServiceError as error:
        return error_answer(error)
    except DATABASE_AWAY as error:
        return error_answer(database_away(error))
