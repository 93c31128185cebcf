"""Which callers may make which call: `require` checks the token's role and the client's scope.

Each action declares them with `allows`, or is `public`; an action that declares nothing is closed.
Who calls is found out in `sessions_app.access.authentication`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from django.http import HttpRequest
from rest_framework.authentication import BaseAuthentication
from rest_framework.request import Request
from rest_framework.viewsets import ViewSet

from codeexec.audit.actors import Actor
from codeexec.errors import (
    DATABASE_AWAY,
    Forbidden,
    ForbiddenForRole,
    InsufficientScope,
    ServiceError,
)
from codeexec.http.threads import begin_in_thread
from codeexec.logs import bind_log
from sessions_app.access.authentication import Credentials, authenticate, authenticate_at_once
from sessions_app.api.inputs import require_known
from sessions_app.callers import Caller, Role, Scope

Action = TypeVar("Action", bound=Callable[..., Any])

ANY_ROLE = tuple(Role)
RUNS_CODE = (Role.CANDIDATE, Role.INTERVIEWER)
SEES_METADATA = (None, Role.INTERVIEWER)
"""The platform's notes about a session are not for the candidate."""


@dataclass(frozen=True, kw_only=True)
class Access:
    """Who may make a call: clients with the scope, and tokens of such clients with one of the
    roles."""

    scope: Scope
    roles: tuple[Role, ...] = ()
    is_list: bool = False
    """It reads many rows: fewer such requests of a client are answered at one time."""


PUBLIC = object()
"""Declared by a call that needs no key."""


def allows(scope: Scope, *roles: Role, is_list: bool = False) -> Callable[[Action], Action]:
    """Declares the scope and the roles that the action needs."""

    def declare(action: Action) -> Action:
        access = Access(scope=scope, roles=roles, is_list=is_list)
        action.access = access  # type: ignore[attr-defined]
        return action

    return declare


def public(action: Action) -> Action:
    """Declares that the action needs no key."""
    action.access = PUBLIC  # type: ignore[attr-defined]
    return action


def require(caller: Caller, access: Access) -> None:
    """Checks the caller's role and scope. Raises ForbiddenForRole, InsufficientScope."""
    if caller.role is not None and caller.role not in access.roles:
        allowed = " or ".join(repr(role.value) for role in access.roles)
        needed = f"the role {allowed}, or an API key" if allowed else "an API key"
        raise ForbiddenForRole(
            f"A session token with the role {caller.role.value!r} may not make this call; it "
            f"needs {needed}.",
            role=caller.role.value,
        )
    if not caller.has_scope(access.scope):
        raise InsufficientScope(
            f"This call needs the scope {access.scope.value!r}, which the client doesn't have; an "
            "operator can add it.",
            scope=access.scope.value,
        )


def authorize(request: HttpRequest, access: Access) -> Caller:
    """The caller of a view that is not REST framework's. Call it in a thread.

    Raises what `authenticate` and `require` raise: a ServiceError, which `error_answer` answers.
    """
    caller = authenticate(credentials_of(request))
    _note(request, caller)
    require(caller, access)
    return caller


async def admit(request: Any) -> bool:
    """Whether to read a request's body, asked in the event loop once its head has arrived. Callers
    that may not make the call are refused by the view, and their bodies are not read.
    """
    declared = _declared_for(request)
    if declared is PUBLIC or request.method == "OPTIONS":
        return True
    try:
        await identify(request)
        if isinstance(declared, Access):
            require(request.caller, declared)
        request.body_holder = request.caller.client_id
        request.is_list = getattr(declared, "is_list", False)
    except Exception:  # the view raises it again, where it is answered
        return False
    return True


def _declared_for(request: Any) -> Any:
    """Who may make the call; PUBLIC for views outside of the API, which have their own rules."""
    view: Any = request.resolver_match and request.resolver_match.func
    kind: Any = getattr(view, "cls", None)
    if not (isinstance(kind, type) and issubclass(kind, ApiViewSet)):
        return PUBLIC
    action = view.actions.get(request.method.lower(), "")
    return getattr(getattr(kind, action, None), "access", None)


async def identify(request: Any) -> None:
    """Authenticates in the event loop, before an `ApiViewSet` is called, whose own authentication
    then finds the result and asks no database. Raises what `authenticate` raises.
    """
    if not hasattr(request, "identified"):
        request.identified = await _identified(credentials_of(request))
    caller = _caller(request.identified)
    _note(request, caller)
    request.caller = caller


async def _identified(credentials: Credentials) -> Caller | Exception:
    try:
        if (known := authenticate_at_once(credentials)) is not None:
            return known
        return await begin_in_thread(authenticate, credentials)
    except Exception as error:
        return error


def _caller(identified: Caller | Exception) -> Caller:
    if isinstance(identified, Exception):
        raise identified
    return identified


def _note(request: HttpRequest, caller: Caller) -> None:
    """The client's name goes to the log from here on, its quota into the answer's headers."""
    request.answer_headers = caller.answer_headers  # type: ignore[attr-defined]
    if caller.client is not None:
        bind_log(client=caller.client.name)


def credentials_of(request: HttpRequest) -> Credentials:
    """From the headers. `?token=` is for clients that can't set one, such as EventSource, and
    counts for reading only, because addresses end up in histories and logs."""
    scheme, _, value = request.META.get("HTTP_AUTHORIZATION", "").partition(" ")
    if scheme.lower() == "api-key":
        return Credentials(key=value.strip(), ends_something=request.method == "DELETE")
    if scheme.lower() == "bearer":
        return Credentials(token=value.strip())
    reads = request.method in ("GET", "HEAD")
    return Credentials(token=request.GET.get("token", "") if reads else "")


class ApiAuthentication(BaseAuthentication):
    def authenticate(self, request: Request) -> tuple[Caller, None]:
        http: Any = request._request
        if not hasattr(http, "identified"):
            http.identified = authenticate(credentials_of(http))
            _note(http, http.identified)
        return _caller(http.identified), None


# It has no docstring: the schema would show it for every call without one.
class ApiViewSet(ViewSet):
    authentication_classes = (ApiAuthentication,)
    permission_classes = ()

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        if self.action not in (None, "metadata"):  # a 405, and OPTIONS
            require_known(request, getattr(self, self.action))

    def perform_authentication(self, request: Request) -> None:
        if self._declared() is not PUBLIC:
            super().perform_authentication(request)

    def check_permissions(self, request: Request) -> None:
        declared = self._declared()
        if declared is PUBLIC or self.action in (None, "metadata"):  # a 405, and OPTIONS
            return
        if not isinstance(declared, Access):
            raise Forbidden("This call is closed: its code doesn't declare who may make it.")
        require(caller_of(request), declared)

    def _declared(self) -> Any:
        return getattr(getattr(self, self.action or "", None), "access", None)


def caller_of(request: Request) -> Caller:
    """The caller of an action that isn't public."""
    caller = request.user
    if not isinstance(caller, Caller):
        raise TypeError(f"the caller was not identified: {caller!r}")
    return caller


def actor_of(request: Request) -> Actor:
    """The caller of an action that isn't public, as the audit log names it."""
    return replace(caller_of(request).actor, address=request.META.get("REMOTE_ADDR") or "")


def is_known(request: Request) -> bool:
    """Whether a public call comes from a client or the operator, who may see more."""
    try:
        return isinstance(request.user, Caller) and request.user.role is None
    except (ServiceError, *DATABASE_AWAY):
        return False
