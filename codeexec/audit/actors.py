"""The actors of the audit log. They don't refer to rows, so that entries stay readable when users
and clients are deleted.
"""

from __future__ import annotations

import getpass
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum

from django.http import HttpRequest


class ActorKind(StrEnum):
    USER = "user"
    """A user who is logged in to the console."""
    CLIENT = "client"
    """A client of the API, with a key or with a session token that it made."""
    COMMAND = "command"
    """The host's user who ran a management command."""
    ANYBODY = "anybody"
    """A caller of an API that needs no key."""


@dataclass(frozen=True, kw_only=True)
class Actor:
    kind: ActorKind
    name: str
    """The name of the user, the client or the command."""
    id: str = ""
    """The primary key of the user or the client; for a command, the host's user who ran it."""
    address: str = ""
    """The IP address, if it is known."""
    credential: str = ""
    """For a client: the prefix of its key, or the kind of its token."""


ANYBODY = Actor(kind=ActorKind.ANYBODY, name="anybody")


def user_actor(request: HttpRequest) -> Actor:
    """The user of a request to the console."""
    return Actor(
        kind=ActorKind.USER,
        name=request.user.get_username(),
        id=str(request.user.pk),
        address=request.META.get("REMOTE_ADDR", ""),
    )


def command_actor(command: str) -> Actor:
    """`command`: the management command's name."""
    user = ""
    with suppress(KeyError, OSError):  # a container's user without a name
        user = getpass.getuser()
    return Actor(kind=ActorKind.COMMAND, name=command, id=user)
