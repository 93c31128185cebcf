"""The permission of REST framework views that don't declare one."""

from __future__ import annotations

from typing import Any

from rest_framework.permissions import BasePermission
from rest_framework.request import Request


class DenyAll(BasePermission):
    """The default. The API's own views are `sessions_app.api.authorization.ApiViewSet` instead,
    where each action declares who may call it.
    """

    def has_permission(self, request: Request, view: Any) -> bool:
        return False
