"""The files of a session's workspace, for staff with permission to read candidates' files: a page,
single files, and an archive of all; and what its sandbox uses now. The audit log records each read.
"""

from __future__ import annotations

from itertools import accumulate
from typing import Any
from uuid import UUID

from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import get_object_or_404
from django.template.response import TemplateResponse
from django.urls import path, reverse
from django.utils.dateparse import parse_datetime
from django.utils.decorators import method_decorator
from django.utils.http import urlencode
from django.views.decorators.http import require_GET
from unfold.admin import ModelAdmin

from codeexec.audit.actors import user_actor
from codeexec.audit.record import record
from codeexec.errors import InvalidPath, ServiceError
from sessions_app.admin.display import SESSION_BADGES, ago, text_block
from sessions_app.api.workspace_answers import download_headers
from sessions_app.formats import size
from sessions_app.models import Session, WorkspaceQuery
from sessions_app.services.workspace_queries import (
    Answer,
    ask,
    read_pieces,
    sandbox_figures,
    wait_for_answer,
)
from sessions_app.workspace_paths import readable_path

PAGE = "admin/workspace.html"
SHOWN_FILES = 2000
SHOWN_PATHS = 256 * 1024
"""Characters of paths on a page, which has each several times, in addresses too."""
SHOWN_BYTES = 1024 * 1024
"""A larger file can only be downloaded."""


class WorkspacePages(ModelAdmin):  # type: ignore[misc]
    """The part of a session's admin that shows its workspace."""

    def get_urls(self) -> list[Any]:
        own = [
            ("workspace", self.workspace, "workspace"),
            ("workspace/file", self.workspace_file, "workspace_file"),
            ("archive", self.archive, "archive"),
            ("figures", self.figures, "figures"),
        ]
        guard = self.admin_site.admin_view
        urls = [
            path(f"<uuid:session_id>/{end}", guard(view), name=f"sessions_app_session_{name}")
            for end, view, name in own
        ]
        return [*urls, *super().get_urls()]

    @method_decorator(require_GET)
    def workspace(self, request: HttpRequest, session_id: UUID) -> HttpResponse:
        session = _readable(request, session_id)
        try:
            found = _opened(request, session, WorkspaceQuery.About.FILES)
        except ServiceError as error:
            return self._page(request, session, trouble=error)
        files = found.value["files"]
        shown = _shown(files)
        return self._page(
            request,
            session,
            files=[_row(session, file) for file in shown],
            count=sum(file["type"] == "file" for file in files),
            total=size(sum(file["size"] for file in files if file["type"] == "file")),
            hidden=len(files) - len(shown),
            truncated=found.value["truncated"],
            archive=_address(session, "archive"),
        )

    @method_decorator(require_GET)
    def workspace_file(self, request: HttpRequest, session_id: UUID) -> HttpResponseBase:
        """`?path=`: as text; with `&download=1`: its bytes."""
        session = _readable(request, session_id)
        try:
            name = readable_path(request.GET.get("path", ""))
            found = _opened(request, session, WorkspaceQuery.About.FILE, path=name)
        except (ServiceError, InvalidPath) as error:
            return self._page(request, session, trouble=error)
        if request.GET.get("download"):
            return _download(found, name.rpartition("/")[2], "application/octet-stream")
        content = b"".join(read_pieces(found)) if found.value["size"] <= SHOWN_BYTES else None
        return self._page(
            request,
            session,
            name=name,
            file_size=size(found.value["size"]),
            text=_as_text(content),
            download=_file_address(session, name, download=1),
        )

    @method_decorator(require_GET)
    def archive(self, request: HttpRequest, session_id: UUID) -> HttpResponseBase:
        session = _readable(request, session_id)
        try:
            found = _opened(request, session, WorkspaceQuery.About.ARCHIVE)
        except ServiceError as error:
            return self._page(request, session, trouble=error)
        return _download(found, f"session-{session.pk}.tar.gz", "application/gzip")

    @method_decorator(require_GET)
    def figures(self, request: HttpRequest, session_id: UUID) -> HttpResponse:
        session = get_object_or_404(Session, pk=session_id)
        if not self.has_view_permission(request, session):
            raise PermissionDenied
        try:
            return JsonResponse(sandbox_figures(session.pk))
        except ServiceError as error:  # polled again and again, so it is no error of the page
            return JsonResponse(error.body())

    def _page(
        self,
        request: HttpRequest,
        session: Session,
        *,
        trouble: ServiceError | None = None,
        **more: Any,
    ) -> HttpResponse:
        since = session.workspace_since
        earlier_runs = session.executions.filter(started_at__lt=since) if since else None
        context = {
            **self.admin_site.each_context(request),
            "title": f"Workspace of session {str(session.pk)[:8]}",
            "opts": self.opts,
            "object": session,
            "session": session,
            "status_look": SESSION_BADGES[session.status],
            "since": ago(since),
            "trouble": trouble,
            "workspace": _address(session, "workspace"),
            "back": _address(session, "change"),
            # Whether runs wrote into a workspace that is gone.
            "earlier_runs": earlier_runs is not None and earlier_runs.exists(),
            **more,
        }
        return TemplateResponse(request, PAGE, context, status=_status(trouble))


def _status(trouble: ServiceError | None) -> int:
    """A missing workspace is shown on the page as a notice, not as an error."""
    return trouble.http_status if trouble and trouble.http_status in (400, 404) else 200


def _readable(request: HttpRequest, session_id: UUID) -> Session:
    """Raises PermissionDenied, Http404."""
    if not request.user.has_perm("sessions_app.read_workspace"):
        raise PermissionDenied
    return get_object_or_404(Session.objects.select_related("environment"), pk=session_id)


def _opened(
    request: HttpRequest, session: Session, about: WorkspaceQuery.About, *, path: str = ""
) -> Answer:
    """The node's answer, with an entry in the audit log. Raises ServiceError."""
    found = wait_for_answer(ask(session.pk, about, path=path))
    opened = {"path": path} if path else {}
    record(user_actor(request), "workspace.read", session, about=str(about), **opened)
    return found


def _download(found: Answer, name: str, content_type: str) -> HttpResponseBase:
    headers = download_headers(found, name, content_type)
    return StreamingHttpResponse(read_pieces(found), headers=headers)


def _shown(files: list[dict[str, Any]]) -> list[dict[str, Any]]:
    totals = accumulate(len(file["path"]) for file in files[:SHOWN_FILES])
    return files[: sum(total <= SHOWN_PATHS for total in totals)]


def _row(session: Session, file: dict[str, Any]) -> dict[str, Any]:
    is_file = file["type"] == "file"
    can_be_named = is_file and "\ufffd" not in file["path"]
    return {
        "path": file["path"],
        "type": file["type"],
        "size": size(file["size"]) if is_file else "",
        "modified": ago(parse_datetime(file["modified_at"])),
        "address": _file_address(session, file["path"]) if can_be_named else "",
        "download": _file_address(session, file["path"], download=1) if can_be_named else "",
    }


def _as_text(content: bytes | None) -> str | None:
    """None where it is too large to show, or not text."""
    if content is None or b"\0" in content:
        return None
    try:
        return text_block(content.decode()) if content else "The file is empty."
    except UnicodeDecodeError:
        return None


def _address(session: Session, page: str) -> str:
    return reverse(f"admin:sessions_app_session_{page}", args=(session.pk,))


def _file_address(session: Session, name: str, **more: Any) -> str:
    return f"{_address(session, 'workspace_file')}?{urlencode({'path': name, **more})}"
