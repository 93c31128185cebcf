"""An environment's builds: its Dockerfile, candidates and their logs, promotion, the way back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseBadRequest, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from unfold.admin import ModelAdmin

from codeexec.audit.actors import user_actor
from environments_app.models import Environment, EnvironmentBuild, NodeBuild
from sessions_app.admin.columns import operation
from sessions_app.formats import elapsed
from sessions_app.services import builds
from sessions_app.services.builds import BuildRefused

SHOWN_ROWS = 20
SHOWN_CHARACTERS = 64 * 1024
"""The page shows the end of a log; the rows hold all of it."""

_BADGES = {
    NodeBuild.Status.QUEUED: "warning",
    NodeBuild.Status.RUNNING: "info",
    NodeBuild.Status.PASSED: "success",
    NodeBuild.Status.FAILED: "danger",
    NodeBuild.Status.CANCELLED: "default",
}
_QUESTIONS = {
    "promote": (
        "Promote {}?",
        "New sessions get its image from now on, on every node; those that are open keep theirs.",
        "Promote it",
    ),
    "roll_back": (
        "Roll {} back to revision {}?",
        "New sessions get that revision's image, commands and limits from now on; those that are "
        "open keep theirs. What the environment is now stays in the list, to go back to.",
        "Roll back",
    ),
}
"""Shown before a step that changes what sessions get: the question, what the step does, and the
button's text."""


class BuildPages(ModelAdmin):  # type: ignore[misc]
    """Adds two pages to each environment."""

    actions_detail = ("builds",)

    def get_urls(self) -> list[URLPattern]:
        page = self.admin_site.admin_view(self.build_page)
        pattern = path(
            "<int:object_id>/builds/<int:build_id>/", page, name="environments_app_build"
        )
        urls: list[URLPattern] = super().get_urls()
        return [pattern, *urls]

    def has_operate_permission(self, request: HttpRequest, object_id: str | None = None) -> bool:
        """To see the pages; each step on them needs its own permission."""
        return bool(self.has_view_permission(request))

    @operation("Builds and revisions", icon="deployed_code", url_path="builds")
    def builds(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """The Dockerfile with what was built and promoted; posted: build, or roll back."""
        environment = self._environment(request, object_id)
        if request.method != "POST":
            return self._overview(request, environment)
        named = (environment, request.POST.get("revision", ""))
        steps = {"build": _build, "roll_back": _roll_back}
        return self._post(request, environment, environment, steps, named)

    def build_page(self, request: HttpRequest, object_id: int, build_id: int) -> HttpResponse:
        """One build, whose log refreshes itself; posted: cancel, repeat, promote."""
        environment = self._environment(request, object_id)
        build = get_object_or_404(environment.builds, pk=build_id)
        if request.method != "POST":
            return self._page(request, "admin/build.html", environment, _in_full(build))
        steps = {"cancel": _cancel, "repeat": _repeat, "promote": _promote}
        return self._post(request, environment, build, steps, (build,))

    def _environment(self, request: HttpRequest, object_id: object) -> Environment:
        if not self.has_view_permission(request):
            raise PermissionDenied
        return get_object_or_404(Environment.objects.select_related("build"), pk=object_id)

    def _post(
        self,
        request: HttpRequest,
        environment: Environment,
        subject: Any,
        steps: dict[str, Callable[..., str]],
        named: tuple[object, ...],
    ) -> HttpResponse:
        """Takes the posted step; `named` stand in the question that some steps ask before."""
        name = request.POST.get("step", "")
        step = steps.get(name)
        if step is None:
            return HttpResponseBadRequest("There is no such step.")
        if name in _QUESTIONS and "confirmed" not in request.POST:
            _require(request, "promote_environment")
            return self._ask(request, environment, *named)
        try:
            return HttpResponseRedirect(step(request, subject))
        except BuildRefused as error:
            self.message_user(request, str(error), messages.ERROR)
            if "dockerfile" in request.POST:  # what was typed stays there
                return self._overview(request, subject)
            return HttpResponseRedirect(request.path)

    def _overview(self, request: HttpRequest, environment: Environment) -> HttpResponse:
        shown = _overview(environment) | _text_to_edit(request, environment)
        return self._page(request, "admin/builds.html", environment, shown)

    def _ask(self, request: HttpRequest, environment: Environment, *named: object) -> HttpResponse:
        """A page that asks to confirm the posted step."""
        question, meaning, button = _QUESTIONS[request.POST["step"]]
        kept = {name: request.POST[name] for name in _KEPT if name in request.POST}
        shown = {
            "title": question.format(*named),
            "meaning": meaning,
            "button": button,
            "kept": kept,
            "here": request.path,
        }
        return self._page(request, "admin/confirm_step.html", environment, shown)

    def _page(
        self, request: HttpRequest, template: str, environment: Environment, shown: dict[str, Any]
    ) -> HttpResponse:
        may = {
            name: request.user.has_perm(f"environments_app.{name}")
            for name in ("edit_dockerfile", "build_environment", "promote_environment")
        }
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "original": environment,
            "back": reverse("admin:environments_app_environment_change", args=[environment.pk]),
            "overview": _overview_url(environment),
            "may": may,
            **shown,
        }
        return TemplateResponse(request, template, context)


_KEPT = ("step", "revision", "reason")


# ---- what the pages show


def _text_to_edit(request: HttpRequest, environment: Environment) -> dict[str, Any]:
    """What was typed, or what was built last, so that a build that failed is gone on with; the
    promoted one for those who may only build that, and on request.
    """
    if "dockerfile" in request.POST:
        return {"dockerfile": request.POST["dockerfile"].replace("\r\n", "\n")}
    last = environment.builds.first()
    may_edit = request.user.has_perm("environments_app.edit_dockerfile")
    if last is None or last.pk == environment.build_id or not may_edit:
        return {"dockerfile": builds.dockerfile_of(environment)}
    if (environment.build_id or 0) > last.pk or "promoted" in request.GET:
        return {"dockerfile": builds.dockerfile_of(environment)}
    return {"dockerfile": last.dockerfile, "text_of": last}


def _overview(environment: Environment) -> dict[str, Any]:
    revisions = environment.revisions.select_related("build").order_by("-number")[:SHOWN_ROWS]
    current = {each.pk for each in environment.revisions.latest_of_nodes()}
    return {
        "title": f"Builds of {environment}",
        "builds": [
            {"build": each, "url": _build_url(each), "nodes": _nodes(each)}
            for each in environment.builds.prefetch_related("nodes")[:SHOWN_ROWS]
        ],
        "revisions": [
            {
                "revision": each,
                "current": each.pk in current,
                "problem": builds.irreversible(each),
                "changes": each.changes() or ["first build"],
            }
            for each in revisions
        ],
    }


def _in_full(build: EnvironmentBuild) -> dict[str, Any]:
    nodes = _nodes(build)
    return {
        "title": str(build),
        "build": build,
        "nodes": [{**each, "log": _log(each["row"])} for each in nodes],
        "unfinished": any(each["row"].finished_at is None for each in nodes),
        "repeatable": any(each["row"].status in ("failed", "cancelled") for each in nodes),
        "promoted": build.environment.build_id == build.pk,
        "obstacles": builds.obstacles(build),
        "has_image": any(each["row"].image_id for each in nodes),
    }


def _nodes(build: EnvironmentBuild) -> list[dict[str, Any]]:
    return [
        {
            "row": each,
            "look": _BADGES[NodeBuild.Status(each.status)],
            "took": elapsed(each.started_at, each.finished_at),
            "reason": _in_short(each.reason),
        }
        for each in build.nodes.all()
    ]


def _in_short(reason: str) -> str:
    """The first and the last of many lines; the log has the others."""
    lines = reason.splitlines()
    return reason if len(lines) < 3 else f"{lines[0]} … {lines[-1]}"


def _log(node_build: NodeBuild) -> str:
    text = "".join(node_build.output.values_list("text", flat=True))
    cut = len(text) > SHOWN_CHARACTERS
    return f"… the end of {len(text)} characters:\n{text[-SHOWN_CHARACTERS:]}" if cut else text


# ---- steps, and the page that follows each


def _require(request: HttpRequest, *permissions: str) -> None:
    if not request.user.has_perms([f"environments_app.{name}" for name in permissions]):
        raise PermissionDenied


def _build(request: HttpRequest, environment: Environment) -> str:
    _require(request, "build_environment")
    text = request.POST.get("dockerfile", "").replace("\r\n", "\n")
    if text.strip() != builds.dockerfile_of(environment).strip():
        _require(request, "edit_dockerfile")
    build = builds.request_build(environment, text, by=user_actor(request))
    return _build_url(build)


def _roll_back(request: HttpRequest, environment: Environment) -> str:
    _require(request, "promote_environment")
    number = request.POST.get("revision", "")
    if not number.isdecimal():
        raise BuildRefused("There is no such revision.")
    revision = get_object_or_404(environment.revisions, number=int(number))
    builds.roll_back(revision, by=user_actor(request))
    messages.success(request, f"{environment} is as it was in revision {revision.number}.")
    return _overview_url(environment)


def _cancel(request: HttpRequest, build: EnvironmentBuild) -> str:
    _require(request, "build_environment")
    builds.cancel_build(build, by=user_actor(request))
    return _build_url(build)


def _repeat(request: HttpRequest, build: EnvironmentBuild) -> str:
    _require(request, "build_environment")
    builds.repeat_build(build, by=user_actor(request))
    return _build_url(build)


def _promote(request: HttpRequest, build: EnvironmentBuild) -> str:
    _require(request, "promote_environment")
    builds.promote(build, by=user_actor(request), reason=request.POST.get("reason", ""))
    messages.success(request, f"Sessions of {build.environment} get {build} from now on.")
    return _overview_url(build.environment)


def _overview_url(environment: Environment) -> str:
    return reverse("admin:environments_app_environment_builds", args=[environment.pk])


def _build_url(build: EnvironmentBuild) -> str:
    return reverse("admin:environments_app_build", args=[build.environment_id, build.pk])
