"""The calls of `/api/v1`. Each validates, calls one service, and serializes."""

from __future__ import annotations

from functools import partial
from typing import Any
from uuid import UUID

from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework.pagination import CursorPagination
from rest_framework.request import Request
from rest_framework.response import Response

from codeexec.errors import NotFound
from codeexec.threads import in_thread
from environments_app.models import Environment
from sessions_app.api import examples, schema
from sessions_app.api.access import (
    ANY_ROLE,
    SEES_METADATA,
    WHOEVER_RUNS_CODE,
    ApiViewSet,
    allows,
    caller_of,
    is_known,
    public,
)
from sessions_app.api.answers import (
    EnvironmentSerializer,
    HealthSerializer,
    SessionOpenedSerializer,
    SessionSerializer,
    SessionStoppedSerializer,
    TimelineSerializer,
    TokenSerializer,
)
from sessions_app.api.filters import BySequence, NewestFirst, filter_sessions
from sessions_app.api.requests import (
    OpenSessionSerializer,
    RunSerializer,
    SingleRunSerializer,
    TokenRequestSerializer,
    read_run,
    read_single_run,
)
from sessions_app.api.waiting import Accepted
from sessions_app.callers import Role, Scope
from sessions_app.health import check_health
from sessions_app.models import Execution, Session
from sessions_app.services import executions
from sessions_app.services.executions import Arrival, submit_at_once, submit_single_run
from sessions_app.services.sessions import find_session, open_session, stop_session
from sessions_app.services.tokens import DEFAULT_SECONDS, issue_token


@extend_schema(tags=["sessions"])
class SessionViewSet(ApiViewSet):
    @extend_schema(
        summary="Open a session",
        request=OpenSessionSerializer,
        responses=schema.responses(SessionOpenedSerializer, 201, 400, 503),
        examples=examples.OPEN_SESSION,
    )
    @allows(Scope.SESSIONS)
    def create(self, request: Request) -> Response:
        """`ready` at once when a warm sandbox was there, else `pending`: an execution may be sent
        right away all the same, it waits until the session is ready.
        """
        wanted = OpenSessionSerializer(data=request.data)
        wanted.is_valid(raise_exception=True)
        session = open_session(
            environment_name=wanted.validated_data.get("environment"),
            runtime=wanted.validated_data.get("runtime"),
            ttl_seconds=wanted.validated_data.get("ttl"),
            metadata=wanted.validated_data.get("metadata"),
            caller=caller_of(request),
        )
        executions.remember_session(session)
        return Response(SessionOpenedSerializer(session).data, status=201)

    @extend_schema(
        operation_id="sessions_list",
        summary="List sessions",
        parameters=schema.SESSION_FILTERS,
        responses=schema.page(SessionSerializer, 400),
    )
    @allows(Scope.READ)
    def index(self, request: Request) -> Response:
        """Newest first, in pages: `next` and `previous` are addresses, or null."""
        visible = Session.objects.visible_to(caller_of(request)).select_related("environment")
        sessions = filter_sessions(visible, request)
        return _page(NewestFirst(), sessions, SessionSerializer, request)

    @extend_schema(summary="One session", responses=schema.responses(SessionSerializer, 200, 404))
    @allows(Scope.READ, *ANY_ROLE)
    def retrieve(self, request: Request, session_id: UUID) -> Response:
        caller = caller_of(request)
        context = {"without": () if caller.role in SEES_METADATA else ("metadata",)}
        session = find_session(session_id, caller)
        return Response(SessionSerializer(session, context=context).data)

    @extend_schema(
        summary="Stop a session", responses=schema.responses(SessionStoppedSerializer, 200, 404)
    )
    @allows(Scope.SESSIONS, Role.INTERVIEWER)
    def destroy(self, request: Request, session_id: UUID) -> Response:
        """Its container goes, its history stays. Repeating it is harmless."""
        session = stop_session(session_id, caller=caller_of(request))
        return Response(SessionStoppedSerializer(session).data)

    @extend_schema(
        summary="Make a session token",
        request=TokenRequestSerializer,
        responses=schema.responses(TokenSerializer, 201, 400, 404, 409),
        examples=examples.TOKEN,
    )
    @allows(Scope.TOKENS)
    def tokens(self, request: Request, session_id: UUID) -> Response:
        """Opens this one session to a browser, for a while and as far as the role goes."""
        wanted = TokenRequestSerializer(data=request.data)
        wanted.is_valid(raise_exception=True)
        issued = issue_token(
            find_session(session_id, caller_of(request)),
            Role(wanted.validated_data["role"]),
            expires_in_seconds=wanted.validated_data.get("expires_in") or DEFAULT_SECONDS,
        )
        return Response(TokenSerializer(issued).data, status=201)

    @extend_schema(
        summary="Run code in a session",
        request=RunSerializer,
        parameters=schema.WAIT,
        responses=schema.run_responses(404, 409),
        examples=examples.EXECUTE,
    )
    @allows(Scope.EXECUTE, *WHOEVER_RUNS_CODE)
    def execute(self, request: Request, session_id: UUID, arrival: Arrival) -> Response:
        """Answers when the program has ended, however it ended: `verdict` says how. Runs of one
        session take place one at a time, in the order of their arrival.
        """
        run = read_run(request.data)
        return Accepted(partial(submit_at_once, session_id, run, arrival, caller_of(request)))

    @extend_schema(
        operation_id="sessions_executions_list",
        summary="A session's timeline",
        responses=schema.page(TimelineSerializer, 400, 404),
        parameters=schema.paging("executions"),
    )
    @allows(Scope.READ, *ANY_ROLE)
    def executions(self, request: Request, session_id: UUID) -> Response:
        """Every run with its code, input, output, verdict and times, in order."""
        session = find_session(session_id, caller_of(request))
        found = Execution.objects.filter(session=session).select_related("revision")
        return _page(BySequence(), found, TimelineSerializer, request)


@extend_schema(tags=["executions"])
class ExecutionViewSet(ApiViewSet):
    @extend_schema(
        summary="One execution", responses=schema.responses(TimelineSerializer, 200, 404)
    )
    @allows(Scope.READ, *ANY_ROLE)
    def retrieve(self, request: Request, execution_id: UUID) -> Response:
        execution = executions.find_execution(execution_id, caller_of(request))
        return Response(TimelineSerializer(execution).data)

    @extend_schema(
        summary="Run code once",
        request=SingleRunSerializer,
        parameters=schema.WAIT,
        responses=schema.run_responses(),
        examples=examples.RUN_ONCE,
    )
    @allows(Scope.EXECUTE)
    def run_once(self, request: Request, arrival: Arrival) -> Response:
        """One run in a fresh sandbox that is thrown away after it."""
        environment, runtime, run = read_single_run(request.data)
        submit = partial(submit_single_run, caller=caller_of(request), runtime=runtime)
        return Accepted(partial(in_thread, submit, environment, run, arrival))


@extend_schema(tags=["environments"])
class EnvironmentViewSet(ApiViewSet):
    @extend_schema(
        operation_id="environments_list",
        summary="Names of the environments",
        responses={200: OpenApiResponse({"type": "array", "items": {"type": "string"}})},
        examples=examples.ENVIRONMENTS,
    )
    @allows(Scope.READ, *ANY_ROLE)
    def names(self, request: Request) -> Response:
        names = Environment.objects.enabled().order_by("name").values_list("name", flat=True)
        return Response(list(names))

    @extend_schema(
        summary="One environment in full",
        responses=schema.responses(EnvironmentSerializer, 200, 404),
    )
    @allows(Scope.READ, *ANY_ROLE)
    def retrieve(self, request: Request, name: str) -> Response:
        """Its limits and maxima in bytes, cores and seconds."""
        environment = Environment.objects.enabled().filter(name=name).first()
        if environment is None:
            raise NotFound(f"There is no environment {name!r}; GET /environments names them.")
        return Response(EnvironmentSerializer(environment).data)


@extend_schema(tags=["service"])
class HealthViewSet(ApiViewSet):
    @extend_schema(
        summary="Whether the service can do its job",
        responses={200: HealthSerializer, 503: HealthSerializer},
    )
    @public
    def retrieve(self, request: Request) -> Response:
        """503 when it can't; `degraded` (200) when it can do part of it. `checks` says what is
        wrong to those who have a key, and to others only where.
        """
        health = check_health()
        checks = health.checks if is_known(request) else health.in_short
        body = {"status": health.status, "service": "code-executor", "checks": checks}
        return Response(body, status=503 if health.status == "unhealthy" else 200)


def _page(
    paginator: CursorPagination, rows: Any, serializer: type[Any], request: Request
) -> Response:
    page = paginator.paginate_queryset(rows, request)
    return paginator.get_paginated_response(serializer(page, many=True).data)
