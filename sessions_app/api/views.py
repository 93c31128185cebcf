"""The calls of `/api/v1`. Each validates, calls one service and serializes; `allows` above a call
declares the scope and the roles that it needs, and `access` checks them.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any
from uuid import UUID

from django.http.response import HttpResponseBase
from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework.pagination import CursorPagination
from rest_framework.request import Request
from rest_framework.response import Response

from codeexec.errors import DATABASE_AWAY, NotFound, ServiceError
from codeexec.http.json_answer import render_json
from codeexec.http.shares import thread_share
from codeexec.http.threads import begin_in_thread
from environments_app.models import Environment
from sessions_app.access.tokens import DEFAULT_SECONDS, issue_token
from sessions_app.api import examples, schema
from sessions_app.api.answers import (
    EnvironmentInListSerializer,
    EnvironmentSerializer,
    HealthSerializer,
    ListedExecutionSerializer,
    LivenessSerializer,
    ReadinessSerializer,
    SessionOpenedSerializer,
    SessionSerializer,
    SessionStoppedSerializer,
    StdinStateSerializer,
    TimelineSerializer,
    TokenSerializer,
    WorkspaceSerializer,
)
from sessions_app.api.authorization import (
    ANY_ROLE,
    RUNS_CODE,
    SEES_METADATA,
    ApiViewSet,
    actor_of,
    allows,
    caller_of,
    identify,
    is_known,
    public,
)
from sessions_app.api.execution_search import find_executions
from sessions_app.api.filters import (
    BySequence,
    LatestFirst,
    NewestFirst,
    filter_sessions,
    one_of,
)
from sessions_app.api.idempotent import IDEMPOTENCY_KEY, once_of
from sessions_app.api.inputs import takes
from sessions_app.api.large_answers import whole
from sessions_app.api.requests import (
    ChangeSessionSerializer,
    OpenSessionSerializer,
    RunSerializer,
    SingleRunSerializer,
    StdinSerializer,
    TokenRequestSerializer,
    checked,
    read_run,
    read_single_run,
)
from sessions_app.api.run_answers import Accepted, flag
from sessions_app.api.streams import watched_execution, watched_session
from sessions_app.api.workspace_answers import Asked, as_download, as_json
from sessions_app.callers import Caller, Role, Scope
from sessions_app.models import Execution, Session, WorkspaceQuery
from sessions_app.models.execution import ExecutionQuerySet
from sessions_app.models.large_fields import fill, listed_bytes
from sessions_app.monitoring.health import Health, latest_health
from sessions_app.monitoring.readiness import RETRY_SECONDS, Readiness
from sessions_app.services import executions
from sessions_app.services.executions import (
    RequestArrival,
    submit_at_once,
    submit_execution,
    submit_single_run,
)
from sessions_app.services.idempotency import AlreadyDone, Once, do_once, keep_answer
from sessions_app.services.program_input import add_input
from sessions_app.services.sessions import (
    change_session,
    find_session,
    open_or_find_session,
    open_session,
    reset_session,
    stop_session,
)
from sessions_app.services.workspace_queries import ask
from sessions_app.workspace_paths import readable_path


@extend_schema(tags=["sessions"])
class SessionViewSet(ApiViewSet):
    @extend_schema(
        summary="Open a session",
        responses=schema.responses(SessionOpenedSerializer, 201, 400, 409, 503),
        examples=examples.OPEN_SESSION,
    )
    @takes(OpenSessionSerializer, parameters=[IDEMPOTENCY_KEY])
    @allows(Scope.SESSIONS)
    def create(self, request: Request) -> Response:
        """`ready` at once when a warm sandbox is available, otherwise `pending`. Executions may be
        sent right away in both cases: they wait until the session is ready.
        """
        wanted = checked(OpenSessionSerializer(), request.data)
        once = once_of(request, "open a session")
        try:
            session = open_or_find_session(
                caller_of(request),
                open_it=None if once is None else partial(_open_once, once),
                environment_name=wanted.get("environment"),
                runtime=wanted.get("runtime"),
                ttl_seconds=wanted.get("ttl"),
                metadata=wanted.get("metadata"),
            )
        except AlreadyDone as done:
            return Response(done.answer, status=201)
        executions.remember_session(session)
        return Response(SessionOpenedSerializer(session).data, status=201)

    @extend_schema(
        operation_id="sessions_list",
        summary="List sessions",
        responses=schema.page(SessionSerializer, 400),
    )
    @takes(parameters=schema.SESSION_FILTERS)
    @allows(Scope.READ, is_list=True)
    def index(self, request: Request) -> Response:
        """Newest first, in pages: `next` and `previous` are addresses, or null."""
        visible = Session.objects.visible_to(caller_of(request)).select_related("environment")
        sized = visible.annotate(listed_bytes=Session.size_in_lists())
        sessions = filter_sessions(sized, request)
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
        """Removes its container and keeps its history. Repeating the call is harmless."""
        session = stop_session(session_id, caller=caller_of(request), by=actor_of(request))
        return Response(SessionStoppedSerializer(session).data)

    @extend_schema(
        summary="Change a session",
        responses=schema.responses(SessionSerializer, 200, 400, 404, 409),
        examples=examples.CHANGE_SESSION,
    )
    @takes(ChangeSessionSerializer)
    @allows(Scope.SESSIONS, Role.INTERVIEWER)
    def partial_update(self, request: Request, session_id: UUID) -> Response:
        """Gives it more or less time, counted from now, and replaces its metadata."""
        wanted = checked(ChangeSessionSerializer(), request.data)
        session = change_session(
            session_id,
            ttl_seconds=wanted.get("ttl"),
            metadata=wanted.get("metadata"),
            caller=caller_of(request),
            by=actor_of(request),
        )
        return Response(SessionSerializer(session).data)

    @extend_schema(
        summary="Empty a session's workspace",
        request=None,
        responses=schema.responses(SessionSerializer, 200, 400, 404, 409),
    )
    @allows(Scope.SESSIONS, Role.INTERVIEWER)
    def reset(self, request: Request, session_id: UUID) -> Response:
        """Gives the session a new, empty workspace. Executions sent before are cancelled, waiting
        or running; those sent from now on run in the new workspace.
        """
        session = reset_session(session_id, caller=caller_of(request), by=actor_of(request))
        return Response(SessionSerializer(session).data)

    @extend_schema(
        operation_id="sessions_files_list",
        summary="Files of a session's workspace",
        responses=schema.responses(WorkspaceSerializer, 200, 404, 409, 503),
        examples=examples.FILES,
    )
    @allows(Scope.READ, *ANY_ROLE)
    def files(self, request: Request, session_id: UUID) -> Response:
        """The files as they are now, even while a program runs. Links are listed, not followed."""
        asked = ask(session_id, WorkspaceQuery.About.FILES, caller=caller_of(request))
        return Asked(asked, as_json(session_id=str(session_id)))

    @extend_schema(
        operation_id="sessions_files_retrieve",
        summary="One file of the workspace",
        responses=schema.download("application/octet-stream", 400, 404, 409, 503),
    )
    @takes(parameters=[schema.FILE_PATH])
    @allows(Scope.READ, *ANY_ROLE)
    def file(self, request: Request, session_id: UUID, path: str) -> Response:
        """The file's bytes, as a download. `file_not_found`: there is no such file.
        `file_unreadable`: it is not a regular file.
        """
        name = readable_path(path)
        asked = ask(session_id, WorkspaceQuery.About.FILE, path=name, caller=caller_of(request))
        return Asked(asked, as_download(name.rpartition("/")[2], "application/octet-stream"))

    @extend_schema(
        summary="The workspace as an archive",
        responses=schema.download("application/gzip", 404, 409, 503),
    )
    @allows(Scope.READ, *ANY_ROLE)
    def archive(self, request: Request, session_id: UUID) -> Response:
        """All regular files and folders as tar.gz. The header `X-Workspace-Truncated` is set when
        some could not be read.
        """
        asked = ask(session_id, WorkspaceQuery.About.ARCHIVE, caller=caller_of(request))
        return Asked(asked, as_download(f"session-{session_id}.tar.gz", "application/gzip"))

    @extend_schema(
        summary="Make a session token",
        responses=schema.responses(TokenSerializer, 201, 400, 404, 409),
        examples=examples.TOKEN,
    )
    @takes(TokenRequestSerializer)
    @allows(Scope.TOKENS)
    def tokens(self, request: Request, session_id: UUID) -> Response:
        """A token opens this one session to a browser, for a limited time and in one role. A
        session that has ended can be watched: `role` is `viewer` then.
        """
        wanted = checked(TokenRequestSerializer(), request.data)
        issued = issue_token(
            find_session(session_id, caller_of(request)),
            Role(wanted["role"]),
            expires_in_seconds=wanted.get("expires_in") or DEFAULT_SECONDS,
        )
        return Response(TokenSerializer(issued).data, status=201)

    @extend_schema(
        summary="Run code in a session",
        responses=schema.run_responses(404, 409),
        examples=examples.EXECUTE,
    )
    @takes(RunSerializer, parameters=[*schema.WAIT, IDEMPOTENCY_KEY])
    @allows(Scope.EXECUTE, *RUNS_CODE)
    def execute(self, request: Request, session_id: UUID, arrival: RequestArrival) -> Response:
        """Answers when the program has ended; `verdict` says how. A session runs one execution at a
        time, in the order of their arrival.
        """
        run, caller = read_run(request.data), caller_of(request)
        once = once_of(request, f"run in {session_id}")
        if once is None:
            return Accepted(partial(submit_at_once, session_id, run, arrival, caller))
        submit = partial(submit_execution, session_id, run, arrival, caller)
        return Accepted(_submitting_once(once, submit, arrival, caller))

    @extend_schema(
        operation_id="sessions_executions_list",
        summary="A session's timeline",
        responses=schema.page(ListedExecutionSerializer, 400, 404),
    )
    @takes(parameters=schema.TIMELINE)
    @allows(Scope.READ, *ANY_ROLE, is_list=True)
    def executions(self, request: Request, session_id: UUID) -> Response:
        """All executions in order, or the last one first, each with its code, input, output,
        verdict and times. `omitted` names fields that are too large for a list; `GET
        /executions/{id}` returns them. A page may have fewer executions than `page_size` even
        though there is a `next` one.
        """
        order = one_of(request, "order", ["asc", "desc"])
        session = find_session(session_id, caller_of(request))
        pages = LatestFirst() if order == "desc" else BySequence()
        return _page_of_executions(pages, Execution.objects.filter(session=session), request)

    @extend_schema(
        summary="Watch a session",
        responses=schema.stream_responses("the session is closed"),
    )
    @takes(parameters=schema.LAST_EVENT_ID)
    @allows(Scope.READ, *ANY_ROLE)
    def events(self, request: Request, session_id: UUID) -> Response:
        """Server-Sent Events of the whole session, from its first execution on: those of each
        execution, and `session` whenever the session's status or expiry changes. The stream ends
        when the session is closed.
        """
        session = find_session(session_id, caller_of(request))
        return watched_session(session, request._request)


@extend_schema(tags=["executions"])
class ExecutionViewSet(ApiViewSet):
    @extend_schema(
        operation_id="executions_list",
        summary="List executions",
        responses=schema.page(ListedExecutionSerializer, 400),
    )
    @takes(parameters=schema.EXECUTION_FILTERS)
    @allows(Scope.READ, is_list=True)
    def index(self, request: Request) -> Response:
        """Those of all your sessions, newest first, in pages. A page may have few executions, or
        none, even though there is a `next` one: it searches a part of the history.
        """
        found = find_executions(caller_of(request), request)
        return _page_of_executions(found.pages, found.rows, request)

    @extend_schema(
        summary="One execution",
        responses=schema.responses(TimelineSerializer, 200, 400, 404, 503),
    )
    @takes(parameters=schema.WAIT_FOR_END)
    @allows(Scope.READ, *ANY_ROLE)
    def retrieve(self, request: Request, execution_id: UUID) -> HttpResponseBase:
        """The execution in full, however large it is; with `wait`, when it has ended."""
        execution = executions.find_execution(execution_id, caller_of(request))
        return whole(TimelineSerializer(), execution)

    @extend_schema(
        summary="Cancel an execution",
        request=None,
        parameters=[schema.LOCATION],
        responses=schema.cancel_responses(),
    )
    @allows(Scope.EXECUTE, *RUNS_CODE)
    def cancel(self, request: Request, execution_id: UUID) -> HttpResponseBase:
        """Ends the program. Its session, the workspace and the output so far are kept. The answer
        is the ended execution, after a moment; where ending it takes more than three seconds, the
        answer is 202 with the execution as it is, and it still ends. An execution that has ended
        already stays as it is.
        """
        caller = caller_of(request)
        execution = executions.cancel_execution(execution_id, caller=caller, by=actor_of(request))
        return whole(TimelineSerializer(), execution)

    @extend_schema(
        summary="Type into a running program",
        responses=schema.responses(StdinStateSerializer, 200, 400, 404, 409, 429),
        examples=examples.STDIN,
    )
    @takes(StdinSerializer)
    @allows(Scope.EXECUTE, *RUNS_CODE)
    def stdin(self, request: Request, execution_id: UUID) -> Response:
        """Adds to the standard input of an execution that was sent with `interactive`. What is sent
        before the program runs is kept for it. `offset` of the answer is where the next input
        begins; `open` is false after `eof` and when the execution has ended.
        """
        wanted = checked(StdinSerializer(), request.data)
        state = add_input(
            execution_id,
            wanted.get("data", b""),
            offset=wanted.get("offset"),
            end=wanted.get("eof") or False,
            caller=caller_of(request),
        )
        return Response(StdinStateSerializer({"execution_id": execution_id, "state": state}).data)

    @extend_schema(
        summary="Watch an execution",
        responses=schema.stream_responses("the result was the last event"),
    )
    @takes(parameters=schema.LAST_EVENT_ID)
    @allows(Scope.READ, *ANY_ROLE)
    def events(self, request: Request, execution_id: UUID) -> Response:
        """Server-Sent Events: `status`, `stdout` and `stderr` while the program runs, and finally
        `result`, which is the same as the answer of the call that ran it. Earlier events are sent
        first, also when the execution has ended.
        """
        execution = executions.find_execution(execution_id, caller_of(request))
        return watched_execution(execution, request._request)

    @extend_schema(
        summary="Run code once",
        responses=schema.run_responses(409),
        examples=examples.RUN_ONCE,
    )
    @takes(SingleRunSerializer, parameters=[*schema.WAIT, IDEMPOTENCY_KEY])
    @allows(Scope.EXECUTE)
    def run_once(self, request: Request, arrival: RequestArrival) -> Response:
        """One run in a fresh sandbox that is removed afterwards."""
        environment, runtime, run = read_single_run(request.data)
        caller = caller_of(request)
        submit = partial(submit_single_run, caller=caller, runtime=runtime)
        once = once_of(request, "run once")
        if once is None:
            return Accepted(partial(begin_in_thread, submit, environment, run, arrival))
        single = partial(submit, environment, run, arrival)
        return Accepted(_submitting_once(once, single, arrival, caller))


@extend_schema(tags=["environments"])
class EnvironmentViewSet(ApiViewSet):
    @extend_schema(
        operation_id="environments_list",
        summary="Names of the environments",
        responses=schema.responses(OpenApiResponse(schema.ENVIRONMENTS), 200, 400),
        examples=examples.ENVIRONMENTS,
    )
    @takes(parameters=schema.DETAIL)
    @allows(Scope.READ, *ANY_ROLE)
    def names(self, request: Request) -> Response:
        """Their names, or with `detail=true` what a list of languages and an editor need."""
        enabled = Environment.objects.enabled().order_by("name")
        if flag(request._request, "detail", default=False):
            return Response(EnvironmentInListSerializer(enabled, many=True).data)
        return Response(list(enabled.values_list("name", flat=True)))

    @extend_schema(
        summary="One environment in full",
        responses=schema.responses(EnvironmentSerializer, 200, 404),
    )
    @allows(Scope.READ, *ANY_ROLE)
    def retrieve(self, request: Request, name: str) -> Response:
        """Limits and maxima are in bytes, cores and seconds."""
        environment = Environment.objects.enabled().filter(name=name).first()
        if environment is None:
            raise NotFound(f"There is no environment {name!r}; GET /environments lists them.")
        return Response(EnvironmentSerializer(environment).data)


def _open_once(once: Once, **wanted: Any) -> Session:
    """Raises AlreadyDone as well."""

    def open_and_keep() -> Session:
        session = open_session(**wanted)
        keep_answer(once, json.loads(render_json(SessionOpenedSerializer(session).data)))
        return session

    return do_once(once, open_and_keep)


def _submitting_once(
    once: Once, submit: Callable[[], Execution], arrival: RequestArrival, caller: Caller
) -> Callable[[], Awaitable[Execution]]:
    """It raises AlreadyDone as well."""

    async def submit_once() -> Execution:
        # It may wait for another call with the key, and others' calls need threads meanwhile.
        async with thread_share(caller.client_id, is_list=False):
            return await begin_in_thread(do_once, once, submit, execution_id=arrival.execution_id)

    return submit_once


async def read_health(request: Any) -> None:
    """Sets the health and the caller on the request; callers with a key see more of it."""
    request.health = await latest_health.result()
    with suppress(ServiceError, *DATABASE_AWAY):
        await identify(request)


@extend_schema(tags=["service"])
class HealthViewSet(ApiViewSet):
    @extend_schema(
        summary="Whether the service can do its job",
        responses={200: HealthSerializer, 503: HealthSerializer},
    )
    @public
    def retrieve(self, request: Request) -> Response:
        """503 when it can't; `degraded` (200) when it can do part of it. `checks` gives the reasons
        to callers with a key, and to others only the parts that are affected. The answer is up to
        a second old.
        """
        health: Health = request._request.health  # type: ignore[attr-defined]
        checks = health.checks if is_known(request) else health.in_short
        body = {"status": health.status, "service": "code-executor", "checks": checks}
        return Response(body, status=503 if health.status == "unhealthy" else 200)

    @extend_schema(
        operation_id="health_live",
        summary="Whether this process answers",
        responses=LivenessSerializer,
    )
    @public
    def live(self, request: Request) -> Response:
        """It checks nothing else: restart a process that doesn't answer this."""
        return Response({"status": "alive"})

    @extend_schema(
        operation_id="health_ready",
        summary="Whether this process can serve",
        responses={200: ReadinessSerializer, 503: ReadinessSerializer},
    )
    @public
    def ready(self, request: Request) -> Response:
        """503 with `Retry-After` while it can't, or is shutting down: send it nothing until then.
        `checks` has `ok` or `not ok` for each part.
        """
        readiness: Readiness = request._request.readiness  # type: ignore[attr-defined]
        if readiness.is_ready:
            return Response(readiness.body())
        return Response(readiness.body(), status=503, headers={"Retry-After": RETRY_SECONDS})


def _page_of_executions(
    paginator: CursorPagination, rows: ExecutionQuerySet, request: Request
) -> Response:
    found = rows.without_large_fields().select_related("revision")
    sized = found.annotate(listed_bytes=listed_bytes())
    return _page(paginator, sized, ListedExecutionSerializer, request, fill)


def _page(
    paginator: CursorPagination,
    rows: Any,
    serializer: type[Any],
    request: Request,
    complete: Callable[[Any], Any] = list,
) -> Response:
    page = complete(paginator.paginate_queryset(rows, request))
    return paginator.get_paginated_response(serializer(page, many=True).data)
