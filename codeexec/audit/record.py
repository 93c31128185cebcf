from __future__ import annotations

from typing import Any

from django.db import models

from codeexec.audit.actors import Actor
from codeexec.audit.models import AuditEntry

_LONGEST = {
    "actor_name": 150,
    "actor_id": 64,
    "address": 45,
    "credential": 60,
    "target_id": 64,
    "target_name": 200,
}
"""The lengths of the columns. Longer names are cut off, so that the entry can be written."""


def record(
    by: Actor, action: str, target: models.Model | None = None, **details: Any
) -> AuditEntry:
    """Write an entry in the caller's transaction, so that the action and its entry are committed
    together.

    `action`: `<thing>.<verb>`. `details`: JSON values, times, UUIDs; no secrets and no code.
    """
    names = {
        "actor_name": by.name,
        "actor_id": by.id,
        "address": by.address,
        "credential": by.credential,
        "target_id": "" if target is None else str(target.pk),
        "target_name": "" if target is None else str(target),
    }
    return AuditEntry.objects.create(
        actor_kind=by.kind.value,
        action=action,
        target_type="" if target is None else target._meta.model_name or "",
        details=details,
        **{name: text[: _LONGEST[name]] for name, text in names.items()},
    )
