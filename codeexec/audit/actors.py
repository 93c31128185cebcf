"""Who does something, as the audit log names him. Knows no model: rows of users and clients go,
and what they did stays readable.
"""

from __future__ import annotations

import getpass
from dataclasses import dataclass
from enum import StrEnum

from django.http import HttpRequest


class ActorKind(StrEnum):
    USER = "user"
    """Somebody logged in to the console."""
    CLIENT = "client"
    """A client of the API, by a key or by a session token that it made."""
    COMMAND = "command"
    """Whoever ran a management command on a host."""
    ANYBODY = "anybody"
    """A call to an API that asks for no key."""


@dataclass(frozen=True, kw_only=True)
class Actor:
    kind: ActorKind
    name: str
    """Of the user or the client; of a command, the command's."""
    id: str = ""
    """Primary key of the user or the client; of a command, the host's user who ran it."""
    address: str = ""
    """IP address, where it is known."""
    credential: str = ""
    """Of a client: the key or the kind of token that it came with, as far as that is no secret."""


ANYBODY = Actor(kind=ActorKind.ANYBODY, name="anybody")


def user_actor(request: HttpRequest) -> Actor:
    """Of a request to the console, which only users make."""
    return Actor(
        kind=ActorKind.USER,
        name=request.user.get_username(),
        id=str(request.user.pk),
        address=request.META.get("REMOTE_ADDR", ""),
    )


def command_actor(command: str) -> Actor:
    """`command`: the management command's name."""
    return Actor(kind=ActorKind.COMMAND, name=command, id=_host_user())


def _host_user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return ""
