"""The operators' pages of environments and their revisions."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db.models import Field, QuerySet
from django.forms.models import ModelForm
from django.http import HttpRequest
from django.utils.html import format_html_join
from django.utils.text import capfirst
from unfold.admin import ModelAdmin, TabularInline
from unfold.contrib.filters.admin import BooleanRadioFilter

from codeexec.audit.actors import user_actor
from codeexec.audit.console import AuditedForms
from environments_app.forms import EnvironmentForm, ExactText, limit_field, shown
from environments_app.limits import LIMITS
from environments_app.models import Environment, EnvironmentQuerySet, EnvironmentRevision
from environments_app.seeding import changed_fields
from environments_app.services import make_default, record_definition, set_enabled

PROGRAM_FIELDS = ("smoke_program", "smoke_stdout", "sample")

ISOLATION_FIELDS = (
    "image",
    "executor_user",
    "workspace_dir",
    "runtime",
    "network",
    "prestart",
    "preload",
    *(name for limit in LIMITS for name in (limit.field, limit.maximum_field)),
)
"""Columns that isolate a sandbox and limit its use of the host: only superusers may change them.
The other columns decide what runs inside, which any client decides as well.
"""

_UNITS = {"cpu": " CPU", "pids": " processes", "timeout": " s", "tmpfs": " workspace"}


_TO_BE_BUILT = "{0} has no image yet: build it under Builds and revisions, then enable it."


def limits_text(environment: Environment) -> str:
    """`256m · 0.5 CPU · 50 processes · 30 s · 64m workspace`."""
    limits = environment.limits()
    listed = [limit for limit in LIMITS if limit.key not in ("output", "interactive_timeout")]
    return " · ".join(
        f"{shown(limit, getattr(limits, limit.field))}{_UNITS.get(limit.key, '')}"
        for limit in listed
    )


class EnvironmentRevisionInline(TabularInline):  # type: ignore[misc]
    model = EnvironmentRevision
    fields = ("number", "created_at", "short_image_id", "size", "prestarted", "changed")
    readonly_fields = fields
    ordering = ("-number",)
    per_page = 10
    extra = 0

    @admin.display(description="size")
    def size(self, revision: EnvironmentRevision) -> str:
        return f"{revision.size_bytes / 1_000_000:.0f} MB"

    @admin.display(description="pre-started")
    def prestarted(self, revision: EnvironmentRevision) -> str:
        """The memory that the interpreter takes, which sandboxes have on top of their limit."""
        return revision.prestart_state

    @admin.display(description="image")
    def short_image_id(self, revision: EnvironmentRevision) -> str:
        """As `docker images` shows it."""
        return revision.image_id.removeprefix("sha256:")[:12]

    @admin.display(description="changed")
    def changed(self, revision: EnvironmentRevision) -> str:
        lines = revision.changes() or ["first build"]
        return format_html_join("", "<div>{}</div>", ((line,) for line in lines))

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(Environment)
class EnvironmentAdmin(AuditedForms, ModelAdmin):  # type: ignore[misc]
    form = EnvironmentForm
    list_display: tuple[str, ...] = (
        "name",
        "enabled",
        "is_default",
        "image",
        "revision",
        "limits",
        "description",
    )
    list_filter = (("enabled", BooleanRadioFilter), "network", "runtime", "executor_user")
    search_fields = ("name", "title", "description", "image", "run_command", "compile_command")
    actions = ("enable", "disable", "choose_as_default")
    inlines = (EnvironmentRevisionInline,)
    readonly_fields: tuple[str, ...] = (
        "is_default",
        "image_reference",
        "prestarted",
        "changed",
        "created_at",
        "updated_at",
    )
    fieldsets: tuple[Any, ...] = (
        (
            None,
            {"fields": ("name", ("title", "version"), "description", "enabled", "is_default")},
        ),
        ("Image", {"fields": ("image", "image_reference", "executor_user", "workspace_dir")}),
        (
            "Commands",
            {"fields": ("default_filename", "file_extension", "compile_command", "run_command")},
        ),
        ("Editors", {"fields": ("editor_mode", "sample")}),
        ("Limits", {"fields": tuple((limit.field, limit.maximum_field) for limit in LIMITS)}),
        ("Smoke test", {"fields": ("smoke_program", "smoke_stdout", "smoke_exit_code")}),
        (
            "Sandboxes",
            {
                "fields": (
                    ("warm_pool_size", "warm_pool_max"),
                    "prestart",
                    "preload",
                    "prestarted",
                    "runtime",
                    "network",
                )
            },
        ),
        ("History", {"fields": ("changed", "created_at", "updated_at")}),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Environment]:
        return EnvironmentQuerySet(Environment).with_current_revision()

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        fields = self.readonly_fields
        if obj:  # the name is what seeding, folders and sessions know an environment by
            fields = (*fields, "name")
        return fields if request.user.is_superuser else (*fields, *ISOLATION_FIELDS)

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        """A new one can't be enabled: it has no image."""
        sections = super().get_fieldsets(request, obj)
        if obj is not None:
            return sections
        return [
            (
                title,
                {**options, "fields": [name for name in options["fields"] if name != "enabled"]},
            )
            for title, options in sections
        ]

    def formfield_for_dbfield(
        self, db_field: Field[Any, Any], request: HttpRequest, **kwargs: Any
    ) -> forms.Field | None:
        if db_field.name in PROGRAM_FIELDS:
            kwargs["form_class"] = ExactText
        field = limit_field(db_field.name, str(capfirst(db_field.verbose_name)))
        return field or super().formfield_for_dbfield(db_field, request, **kwargs)

    def save_model(
        self, request: HttpRequest, obj: Environment, form: ModelForm[Environment], change: bool
    ) -> None:
        if not change:
            obj.enabled = False
            obj.save()
            self.message_user(request, _TO_BE_BUILT.format(obj), messages.WARNING)
            return
        obj.save(update_fields=[*form.changed_data, "updated_at"])
        record_definition(obj)

    def has_add_permission(self, request: HttpRequest) -> bool:
        """A new one needs an image and a user, which are ISOLATION_FIELDS."""
        return request.user.is_superuser and super().has_add_permission(request)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        is_default = obj is not None and obj.is_default
        return not is_default and super().has_delete_permission(request, obj)

    @admin.display(description="revision", ordering="current_revision_number")
    def revision(self, environment: Environment) -> str:
        number = environment.current_revision_number  # type: ignore[attr-defined]
        return "not built" if number is None else str(number)

    @admin.display(description="limits")
    def limits(self, environment: Environment) -> str:
        return limits_text(environment)

    @admin.display(description="image's full name")
    def image_reference(self, environment: Environment) -> str:
        return environment.image_reference if environment.image else "-"

    @admin.display(description="pre-started")
    def prestarted(self, environment: Environment) -> str:
        """Of each node's latest revision."""
        if not environment.prestart:
            return "-"
        states = [
            f"{each.node}: {each.prestart_state or 'not tried yet'}"
            for each in environment.revisions.all().latest_of_nodes()
        ]
        return "; ".join(states) or "not tried yet"

    @admin.display(description="changed since seeding")
    def changed(self, environment: Environment) -> str:
        """The fields that seeding will keep and report."""
        if environment.seeded is None:
            return "not from the file"
        labels = {field.name: str(field.verbose_name) for field in Environment._meta.fields}
        return ", ".join(labels[name] for name in changed_fields(environment)) or "nothing"

    @admin.action(description="Enable", permissions=["change"])
    def enable(self, request: HttpRequest, queryset: QuerySet[Environment]) -> None:
        built = queryset.filter(pk__in=EnvironmentRevision.objects.values("environment"))
        count = set_enabled(built, True, by=user_actor(request))
        self.message_user(request, f"Enabled: {count}.", messages.SUCCESS)
        for environment in queryset.exclude(pk__in=built.values("pk")):
            self.message_user(request, _TO_BE_BUILT.format(environment), messages.WARNING)

    @admin.action(description="Disable: no new sessions", permissions=["change"])
    def disable(self, request: HttpRequest, queryset: QuerySet[Environment]) -> None:
        others = queryset.filter(is_default=False)
        count = set_enabled(others, False, by=user_actor(request))
        self.message_user(request, f"Disabled: {count}.", messages.SUCCESS)
        if queryset.filter(is_default=True).exists():
            self.message_user(request, "The default environment stays enabled.", messages.WARNING)

    @admin.action(description="Make it the default", permissions=["change"])
    def choose_as_default(self, request: HttpRequest, queryset: QuerySet[Environment]) -> None:
        if queryset.count() != 1:
            self.message_user(request, "Choose exactly one environment.", messages.ERROR)
            return
        environment = queryset.get()
        if not environment.has_image:
            self.message_user(request, _TO_BE_BUILT.format(environment), messages.ERROR)
            return
        make_default(environment, by=user_actor(request))
        self.message_user(request, f"{environment} is the default now.", messages.SUCCESS)
