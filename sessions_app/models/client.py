from __future__ import annotations

from typing import Self

from django.contrib.postgres.fields import ArrayField
from django.core.validators import MinValueValidator
from django.db import models
from django.db.models import Q
from django.db.models.functions import Now
from django.utils import timezone

from sessions_app.callers import SCOPES, USUAL_SCOPES, Scope

CHANGED_CHANNEL = "code_executor_clients"
"""Notified by triggers on the tables for every change of a client or a key, by hand too."""


BOUNDS = (
    "requests_per_minute",
    "max_live_sessions",
    "max_queued_per_session",
    "max_queued_per_client",
    "max_storage_per_session",
    "max_storage_per_client",
)
"""Limits that a client can have of its own: columns, and options of `manage.py create_client`."""


def usual_scopes() -> list[str]:
    return [scope.value for scope in USUAL_SCOPES]


def _above_zero(column: str, name: str) -> models.CheckConstraint:
    """Or empty."""
    condition = Q(**{f"{column}__isnull": True}) | Q(**{f"{column}__gt": 0})
    return models.CheckConstraint(condition=condition, name=name)


class ClientQuerySet(models.QuerySet["Client"]):
    def may_have_sessions(self) -> Self:
        return self.filter(enabled=True, scopes__overlap=[Scope.SESSIONS, Scope.EXECUTE])


class Client(models.Model):
    """A platform that calls the API. It sees the sessions that it has opened, and no others."""

    name = models.CharField(max_length=100, unique=True)
    scopes = ArrayField(
        models.CharField(
            max_length=10,
            choices=[(scope.value, f"{scope.value}: {SCOPES[scope]}") for scope in Scope],
        ),
        default=usual_scopes,
        help_text="What its keys may be used for.",
    )
    requests_per_minute = models.PositiveIntegerField(
        null=True, blank=True, help_text="Of all its keys and tokens together. Empty: unlimited."
    )
    max_live_sessions = models.PositiveIntegerField(
        null=True,
        blank=True,
        help_text="Sessions at one time, single runs too. Empty: its share by CLIENT_SHARE.",
    )
    max_queued_per_session = models.PositiveIntegerField(
        null=True,
        blank=True,
        validators=[MinValueValidator(1)],
        help_text="Executions that may wait in one session. Empty: MAX_QUEUED_PER_SESSION.",
    )
    max_queued_per_client = models.PositiveIntegerField(
        null=True,
        blank=True,
        validators=[MinValueValidator(1)],
        help_text="Executions that may wait in all its sessions. Empty: MAX_QUEUED_PER_CLIENT.",
    )
    max_storage_per_session = models.BigIntegerField(
        null=True,
        blank=True,
        validators=[MinValueValidator(1)],
        help_text="Bytes of one session's metadata, inputs and outputs. Empty: "
        "MAX_STORAGE_PER_SESSION.",
    )
    max_storage_per_client = models.BigIntegerField(
        null=True,
        blank=True,
        validators=[MinValueValidator(1)],
        help_text="Bytes of all its sessions' metadata, inputs and outputs. Empty: "
        "MAX_STORAGE_PER_CLIENT.",
    )
    enabled = models.BooleanField(
        default=True, help_text="If not, all its keys and tokens are refused."
    )
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    objects = ClientQuerySet.as_manager()

    class Meta:
        ordering = ("name",)
        constraints = [
            models.CheckConstraint(condition=~Q(name=""), name="client_has_name"),
            models.CheckConstraint(
                condition=Q(scopes__contained_by=[scope.value for scope in Scope]),
                name="client_scopes_known",
            ),
            _above_zero("requests_per_minute", "client_rate_above_zero"),
            _above_zero("max_queued_per_session", "client_queued_per_session_above_zero"),
            _above_zero("max_queued_per_client", "client_queued_above_zero"),
            _above_zero("max_storage_per_session", "client_storage_per_session_above_zero"),
            _above_zero("max_storage_per_client", "client_storage_above_zero"),
        ]

    def __str__(self) -> str:
        return self.name


class ApiKeyQuerySet(models.QuerySet["ApiKey"]):
    def valid(self) -> Self:
        """Neither revoked nor expired; their clients may be disabled."""
        unexpired = Q(expires_at__isnull=True) | Q(expires_at__gt=timezone.now())
        return self.filter(unexpired, revoked_at__isnull=True)


class ApiKey(models.Model):
    """A secret that proves which client calls: `cex_<prefix>_<secret>`.

    Only the key's SHA-256 is kept. Passwords need a slow, salted hash, because people choose from
    few; a secret of 256 random bits can't be guessed, nor be in any table of hashes. So the fast
    hash loses nothing, and a key is found by its digest: one search in an index, which compares no
    secret byte by byte.
    """

    client = models.ForeignKey(Client, on_delete=models.CASCADE, related_name="keys")
    prefix = models.CharField(
        max_length=8, unique=True, help_text="The part of the key that may be shown."
    )
    digest = models.BinaryField(max_length=32, unique=True, editable=False)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    expires_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, editable=False)
    last_used_at = models.DateTimeField(
        null=True, editable=False, help_text="To the minute, because not every use is recorded."
    )

    objects = ApiKeyQuerySet.as_manager()

    class Meta:
        verbose_name = "API key"
        ordering = ("-created_at", "id")

    def __str__(self) -> str:
        return f"cex_{self.prefix}_…"

    @property
    def state(self) -> str:
        if self.revoked_at is not None:
            return "revoked"
        expired = self.expires_at is not None and self.expires_at <= timezone.now()
        return "expired" if expired else "valid"

    def revoke(self) -> bool:
        """For ever. False: it was revoked before."""
        valid = ApiKey.objects.filter(pk=self.pk, revoked_at__isnull=True)
        return valid.update(revoked_at=Now()) > 0


class ClientAllowance(models.Model):
    """How many requests a client may still make: a token bucket. Its own table, because a client
    with a limit changes it several times a second.
    """

    client = models.OneToOneField(
        Client, on_delete=models.CASCADE, primary_key=True, related_name="allowance"
    )
    permits = models.FloatField()
    counted_at = models.DateTimeField(help_text="When it held so many permits.")

    def __str__(self) -> str:
        return f"{self.client_id}: {self.permits:g}"


class ClientStorage(models.Model):
    """How many bytes are stored of a client's sessions. Upkeep brings it up to date: no run waits
    for a row that all of its client's runs would change.
    """

    client = models.OneToOneField(
        Client, on_delete=models.CASCADE, primary_key=True, related_name="storage"
    )
    closed_bytes = models.BigIntegerField(help_text="Of sessions that are `storage_counted`.")
    used_bytes = models.BigIntegerField(help_text="Of all sessions, when they were counted last.")

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.client_id}: {self.used_bytes}"
