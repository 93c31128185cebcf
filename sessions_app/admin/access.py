"""Users and groups of the console: Django's own pages in the console's style.

Users can only grant permissions that they hold. A user who is no superuser makes no superusers,
and cannot change (say, the password of) a user with permissions that they lack. Otherwise the
permission to change users would amount to every permission.
"""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.contrib.auth.admin import GroupAdmin as DjangoGroupAdmin
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.models import Group, Permission, User
from django.db.models import Field, Q, QuerySet
from django.http import HttpRequest
from unfold.admin import ModelAdmin
from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm

from codeexec.audit.console import AuditedForms

admin.site.unregister(User)
admin.site.unregister(Group)


def permissions_of(user: Any) -> QuerySet[Permission]:
    """The user's own and their groups', active or not; all that exist for a superuser."""
    if user.is_superuser:
        return Permission.objects.all()
    return Permission.objects.filter(Q(user=user) | Q(group__user=user)).distinct()


def grantable(user: Any, field: str) -> QuerySet[Any] | None:
    """What the user may choose in a field of permissions or groups; None for any other field."""
    if field in ("user_permissions", "permissions"):
        held = permissions_of(user).values("pk")
        return Permission.objects.filter(pk__in=held).select_related("content_type")
    if field == "groups":
        beyond = Permission.objects.exclude(pk__in=permissions_of(user).values("pk"))
        return Group.objects.exclude(permissions__in=beyond)
    return None


def holds_all(user: Any, permissions: QuerySet[Permission]) -> bool:
    return not permissions.exclude(pk__in=permissions_of(user).values("pk")).exists()


class _GrantsOnlyWhatIsHeld:
    """Of an admin with permissions to choose."""

    def may_touch(self, user: Any, row: Any) -> bool:
        """Whether the user holds all permissions of the row."""
        raise NotImplementedError

    def formfield_for_manytomany(
        self, db_field: Field[Any, Any], request: HttpRequest, **kwargs: Any
    ) -> Any:
        field = super().formfield_for_manytomany(db_field, request, **kwargs)  # type: ignore[misc]
        choices = grantable(request.user, db_field.name)
        if choices is not None and not request.user.is_superuser:
            field.queryset = choices
        return field

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        allowed: bool = super().has_change_permission(request, obj)  # type: ignore[misc]
        return allowed and (obj is None or self.may_touch(request.user, obj))

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        allowed: bool = super().has_delete_permission(request, obj)  # type: ignore[misc]
        return allowed and (obj is None or self.may_touch(request.user, obj))


@admin.register(User)
class UserAdmin(AuditedForms, _GrantsOnlyWhatIsHeld, DjangoUserAdmin, ModelAdmin):  # type: ignore[misc, type-arg]
    compressed_fields = False
    form = UserChangeForm
    add_form = UserCreationForm
    change_password_form = AdminPasswordChangeForm
    list_display = ("username", "email", "is_active", "is_staff", "is_superuser", "last_login")

    def may_touch(self, user: Any, row: User) -> bool:
        if user.is_superuser:
            return True
        return not row.is_superuser and holds_all(user, permissions_of(row))

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        fields = tuple(super().get_readonly_fields(request, obj))
        return fields if request.user.is_superuser else (*fields, "is_superuser")


@admin.register(Group)
class GroupAdmin(AuditedForms, _GrantsOnlyWhatIsHeld, DjangoGroupAdmin, ModelAdmin):  # type: ignore[misc]
    compressed_fields = False

    def may_touch(self, user: Any, row: Group) -> bool:
        return bool(user.is_superuser) or holds_all(user, row.permissions.all())
