"""The fields of the body and the parameters of the address that a call takes.

Each action declares them with `takes`, once for the schema and for the check; an action without it
takes none. Other names are refused, because a misspelt one would silently be ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, TypeVar

from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.serializers import Serializer

from codeexec.errors import UnknownField

Action = TypeVar("Action", bound=Callable[..., Any])

TOKEN = "token"  # noqa: S105 -- a parameter's name
"""Taken by every call that reads, see `sessions_app.api.authorization.credentials_of`."""
ANY_KEY = "<key>"
"""At the end of a parameter's name: any name that a client chooses."""
_SHOWN_CHARACTERS = 50
_SHOWN_NAMES = 10
_BODY, _ADDRESS = "field", "parameter"


@dataclass(frozen=True, kw_only=True)
class Inputs:
    fields: frozenset[str] = frozenset()
    parameters: frozenset[str] = frozenset()


_NONE = Inputs()


def takes(
    body: type[Serializer[Any]] | None = None, *, parameters: Iterable[OpenApiParameter] = ()
) -> Callable[[Action], Action]:
    """Declares what an action takes."""
    declared = [*parameters]
    in_address = [each.name for each in declared if each.location == OpenApiParameter.QUERY]
    inputs = Inputs(
        fields=frozenset(body().fields) if body is not None else frozenset(),
        parameters=frozenset(in_address),
    )

    def declare(action: Action) -> Action:
        described: Action = extend_schema(request=body, parameters=declared)(action)
        described.inputs = inputs  # type: ignore[attr-defined]
        return described

    return declare


def require_known(request: Request, action: object) -> None:
    """Raises UnknownField."""
    inputs: Inputs = getattr(action, "inputs", _NONE)
    reads = request.method in ("GET", "HEAD")
    parameters = inputs.parameters | {TOKEN} if reads else inputs.parameters
    unknown = [name for name in request.query_params if not _is_one_of(name, parameters)]
    if unknown:
        raise _refused(unknown, _ADDRESS, parameters, inputs.fields)
    if reads or "json" not in (request.content_type or ""):
        return  # a call without a body may come with any content type
    data = request.data
    if isinstance(data, dict) and not data.keys() <= inputs.fields:
        unknown = [name for name in data if name not in inputs.fields]
        raise _refused(unknown, _BODY, inputs.fields, parameters)


def _is_one_of(name: str, parameters: Collection[str]) -> bool:
    if name in parameters:
        return True
    return any(
        name.startswith(known.removesuffix(ANY_KEY))
        for known in parameters
        if known.endswith(ANY_KEY)
    )


def _refused(
    unknown: list[str], kind: str, known: Collection[str], elsewhere: Collection[str]
) -> UnknownField:
    names = unknown[:_SHOWN_NAMES]
    problems = {_shown(name): [_sentence(name, kind, known, elsewhere)] for name in names}
    field, (detail,) = next(iter(problems.items()))
    return UnknownField(detail, field=field, errors=problems)


def _sentence(name: str, kind: str, known: Collection[str], elsewhere: Collection[str]) -> str:
    nearest = nearest_name(name, {*known, *elsewhere})
    if nearest is None or nearest in known:
        return unknown_name(name, kind, known)
    place = "the body" if kind == _ADDRESS else f"the address: ?{nearest}="
    return f"{_shown(name)} is not a {kind} of this call; {nearest} belongs in {place}."


def unknown_name(name: str, kind: str, known: Collection[str], of: str = "this call") -> str:
    """The sentence about an unknown name."""
    begin, nearest = f"{_shown(name)} is not a {kind} of {of}", nearest_name(name, known)
    if nearest is not None:
        return f"{begin}. Did you mean {nearest}?"
    return f"{begin}; it takes {', '.join(sorted(known)) or 'none'}."


def nearest_name(name: str, known: Collection[str]) -> str | None:
    """The known name that was probably meant."""
    folded = {_folded(each): each for each in sorted(known)}
    for each in folded:
        if each.endswith(ANY_KEY) and _folded(name).startswith(each.removesuffix(f".{ANY_KEY}")):
            return folded[each]
    found = get_close_matches(_folded(name[:_SHOWN_CHARACTERS]), folded, n=1)
    return folded[found[0]] if found else None


def _folded(name: str) -> str:
    return name.casefold().replace("-", "_")


def _shown(name: str) -> str:
    return name[:_SHOWN_CHARACTERS].encode(errors="replace").decode()
