"""`manage.py clients`: the API's clients and their keys."""

from __future__ import annotations

from typing import Any

from django.db.models import Count, Q

from codeexec.cli import TeachingCommand
from sessions_app.access.clients import expiry_text, used_storage
from sessions_app.formats import size
from sessions_app.models import ApiKey, Client
from sessions_app.models.client import BOUNDS


class Command(TeachingCommand):
    help = "Lists the clients of the API: what they may do, and their keys, by prefix."

    explanation = "Scopes and limits are changed in the admin."
    examples = ("clients", "clients --json")

    def handle(self, *_args: Any, **options: Any) -> None:
        live = Count("sessions", filter=Q(sessions__closed_at__isnull=True))
        rows = Client.objects.order_by("name").select_related("storage").prefetch_related("keys")
        clients = [_fields(client) for client in rows.annotate(live=live)]
        none = ["There are no clients; `manage.py create_client NAME` makes one."]
        self.answer(options, clients, map(_lines, clients) if clients else none)


def _fields(client: Any) -> dict[str, Any]:
    return {
        "name": client.name,
        "enabled": client.enabled,
        "scopes": client.scopes,
        **{name: getattr(client, name) for name in BOUNDS},
        "live_sessions": client.live,
        "stored_bytes": used_storage(client),
        "keys": [_key_fields(key) for key in client.keys.all()],
    }


def _key_fields(key: ApiKey) -> dict[str, Any]:
    return {
        "prefix": key.prefix,
        "state": key.state,
        "created_at": key.created_at,
        "expires_at": key.expires_at,
        "last_used_at": key.last_used_at,
    }


def _lines(client: dict[str, Any]) -> str:
    limits = (
        f"requests a minute: {_bound(client['requests_per_minute'])}; "
        f"live sessions: {client['live_sessions']} of {_bound(client['max_live_sessions'])}; "
        f"stored: {size(client['stored_bytes'])}"
    )
    state = "" if client["enabled"] else " (disabled)"
    lines = [f"{client['name']}{state}: {', '.join(client['scopes'])}; {limits}"]
    for key in client["keys"]:
        used, expires = expiry_text(key["last_used_at"]), expiry_text(key["expires_at"])
        lines.append(f"  cex_{key['prefix']}_…  {key['state']}, used: {used}, expires: {expires}")
    return "\n".join(lines)


def _bound(most: int | None) -> str:
    return "any number" if most is None else str(most)
