"""Logging in to the console: after too many wrong passwords one has to wait.

Attempts are counted by name and address together, so that an operator can't be locked out from
elsewhere. The address is the connection's, or, where that is one of TRUSTED_PROXIES, the forwarded
one.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from datetime import datetime
from typing import Any

from django.contrib.auth.backends import ModelBackend
from django.core.exceptions import PermissionDenied, ValidationError
from django.db import transaction
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.utils import timezone
from unfold.forms import AuthenticationForm

from codeexec.audit.actors import Actor
from codeexec.audit.record import record
from codeexec.http.client_address import client_address
from codeexec.http.shares import RETRY_AFTER_SECONDS
from sessions_app.models.failed_login import FailedLogin, begin_login

logger = logging.getLogger(__name__)

Handler = Callable[[HttpRequest], HttpResponseBase]


class ThrottledBackend(ModelBackend):
    """Django's own user names and passwords, with a limit on wrong ones."""

    def authenticate(
        self,
        request: HttpRequest | None,
        username: str | None = None,
        password: str | None = None,
        **fields: Any,
    ) -> Any:
        """The user or None. Raises PermissionDenied where one has to wait, and sets until when."""
        if request is None or username is None:
            return super().authenticate(request, username, password, **fields)
        username, address = username[:150], client_address(request)
        if _found_no_turn(request):
            logger.warning("Login as %r from %s refused: there are too many", username, address)
            raise PermissionDenied
        attempt = begin_login(username, address)
        if isinstance(attempt, datetime):
            request.login_refused_until = attempt  # type: ignore[attr-defined]
            logger.warning("Login as %r from %s refused until %s", username, address, attempt)
            raise PermissionDenied
        user = super().authenticate(request, username, password, **fields)
        if user is not None:
            FailedLogin.objects.of(username, address).counting().delete()
        return user


class LoginForm(AuthenticationForm):  # type: ignore[misc]
    def get_invalid_login_error(self) -> ValidationError:
        if _found_no_turn(self.request):
            return ValidationError(
                "Too many people are signing in right now. Try again in a few seconds.",
                code="too_many_sign_ins",
            )
        until = _refused_until(self.request)
        if until is None:
            error: ValidationError = super().get_invalid_login_error()
            return error
        minutes = math.ceil(_seconds_until(until) / 60)
        return ValidationError(
            f"Too many wrong passwords. Try again at {until:%H:%M} UTC, in {minutes} "
            f"minute{'s' if minutes != 1 else ''}; until then the right one is refused as well.",
            code="login_refused",
        )


def refused_logins(handler: Handler) -> Handler:
    """Middleware: gives the page that asks to wait its status, 429 or 503."""

    def respond(request: HttpRequest) -> HttpResponseBase:
        response = handler(request)
        until = _refused_until(request)
        if until is not None:
            response.status_code = 429
            response.headers["Retry-After"] = str(_seconds_until(until))
        elif _found_no_turn(request):
            response.status_code = 503
            response.headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
        return response

    return respond


def _found_no_turn(request: HttpRequest | None) -> bool:
    """Too many were signing in at once, see `codeexec.http.shares`."""
    return getattr(request, "sign_in_refused", False)


def _refused_until(request: HttpRequest | None) -> datetime | None:
    return getattr(request, "login_refused_until", None)


def _seconds_until(moment: datetime) -> int:
    return max(math.ceil((moment - timezone.now()).total_seconds()), 1)


@transaction.atomic
def forgive_logins(username: str, address: str | None = None, *, by: Actor) -> int:
    """Let a name try again at once, from one address or all. Returns how many attempts it had."""
    attempts = FailedLogin.objects.filter(username=username)
    if address is not None:
        attempts = attempts.filter(address=address)
    forgiven = attempts.forgive()
    record(by, "login.unlock", username=username, address=address or "any", attempts=forgiven)
    return forgiven
