"""Which calls were done under which `Idempotency-Key`."""

from __future__ import annotations

from datetime import timedelta

from django.db import models
from django.db.models.functions import Now

KEPT = timedelta(hours=24)


class IdempotencyKey(models.Model):
    """A call that was done. Its row is committed together with what the call did, so there is none
    of a call that was refused or got lost.
    """

    digest = models.BinaryField(
        primary_key=True, help_text="Of the key, and of who may use it again."
    )
    holder = models.CharField(
        max_length=64, help_text="Client, and session if it came with a token. Empty: neither."
    )
    fingerprint = models.BinaryField(help_text="Digest of the call and its body.")
    execution_id = models.UUIDField(null=True, help_text="That it has begun, if it was a run.")
    answer = models.JSONField(null=True, help_text="To the opening of a session.")
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        default_permissions = ()
        indexes = [
            models.Index(fields=["holder"], name="idempotency_holder"),
            models.Index(fields=["created_at"], name="idempotency_created"),
        ]

    def __str__(self) -> str:
        return bytes(self.digest).hex()
