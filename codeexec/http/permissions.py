"""What views of REST framework allow that don't declare it: nothing."""

from __future__ import annotations

from typing import Any

from rest_framework.permissions import BasePermission
from rest_framework.request import Request


class Nobody(BasePermission):
    """The default. The API's own views are `sessions_app.api.authorization.ApiViewSet` instead,
    where each action declares who may call it.
    """

    def has_permission(self, request: Request, view: Any) -> bool:
        return False
