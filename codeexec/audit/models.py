from __future__ import annotations

from django.core.serializers.json import DjangoJSONEncoder
from django.db import models
from django.utils import timezone

from codeexec.audit.actors import ActorKind


class AuditEntry(models.Model):
    """One action of an actor. Entries are kept for good, and the console only shows them."""

    at = models.DateTimeField(default=timezone.now)
    actor_kind = models.CharField(
        max_length=10, choices=[(kind.value, kind.value) for kind in ActorKind]
    )
    actor_name = models.CharField(max_length=150)
    actor_id = models.CharField(
        max_length=64, blank=True, help_text="Key of the user or client; a command's host user."
    )
    address = models.CharField(max_length=45, blank=True, help_text="IP address, where known.")
    credential = models.CharField(
        max_length=60,
        blank=True,
        default="",
        db_default="",
        help_text="The key, by its prefix, or the kind of token that a client came with.",
    )
    action = models.CharField(max_length=60, help_text="<thing>.<verb>, such as session.stop.")
    target_type = models.CharField(max_length=40, blank=True, help_text="Model, in lower case.")
    target_id = models.CharField(max_length=64, blank=True)
    target_name = models.CharField(
        max_length=200, blank=True, help_text="As it was called at that time."
    )
    details = models.JSONField(default=dict, encoder=DjangoJSONEncoder)

    class Meta:
        ordering = ["-at", "-id"]
        verbose_name_plural = "audit entries"
        indexes = [
            models.Index(fields=["-at", "-id"], name="audit_newest"),
            models.Index(fields=["action", "-at"], name="audit_by_action"),
            models.Index(fields=["target_id", "-at"], name="audit_of_target"),
        ]
        constraints = [
            models.CheckConstraint(
                condition=models.Q(actor_kind__in=[kind.value for kind in ActorKind]),
                name="audit_actor_kind_known",
            ),
            models.CheckConstraint(
                condition=models.Q(action__regex=r"^[a-z_]+\.[a-z_]+$"), name="audit_action_form"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.actor_name}: {self.action} {self.target_name}".rstrip()
