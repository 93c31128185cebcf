from __future__ import annotations

from datetime import datetime, timedelta
from typing import Self

from django.db import connection, models, transaction
from django.utils import timezone

ATTEMPTS = 5
"""Wrong passwords for one name from one address before it has to wait."""
ADDRESS_ATTEMPTS = 50
"""For any names from one address: one password is tried on many names, too."""
COOL_OFF = timedelta(minutes=15)
"""How long an attempt counts."""
KEPT = timedelta(days=30)
"""How long the console shows it. An address adds no more than ADDRESS_ATTEMPTS per COOL_OFF."""


class FailedLoginQuerySet(models.QuerySet["FailedLogin"]):
    def counting(self) -> Self:
        """Those for which the next attempt has to wait."""
        return self.filter(forgiven=False, tried_at__gt=timezone.now() - COOL_OFF)

    def of(self, username: str, address: str) -> Self:
        return self.filter(username=username, address=address)

    def forgive(self) -> int:
        """Let users that wait try again at once. Returns how many attempts no longer count."""
        return self.counting().update(forgiven=True)


class FailedLogin(models.Model):
    """A wrong password for the console. The row is written before the password is checked, and
    deleted if it was right: so no attempt is uncounted, in however many processes at once.
    """

    username = models.CharField(
        max_length=150, help_text="As it was typed; there may be no such user."
    )
    address = models.CharField(max_length=45, help_text="IP address; of IPv6, its /64 network.")
    tried_at = models.DateTimeField(default=timezone.now)
    forgiven = models.BooleanField(
        default=False, help_text="An operator unlocked the login, so it no longer counts."
    )

    objects = FailedLoginQuerySet.as_manager()

    class Meta:
        ordering = ["-tried_at"]
        indexes = [
            models.Index(fields=["address", "tried_at"], name="failed_login_of_address"),
            models.Index(fields=["tried_at"], name="failed_login_by_time"),
        ]

    def __str__(self) -> str:
        return f"{self.username} from {self.address}"


@transaction.atomic
def begin_login(username: str, address: str) -> FailedLogin | datetime:
    """The attempt, which counts as failed until it is deleted; or the time before which none is
    allowed.
    """
    with connection.cursor() as cursor:  # one at a time from each address
        cursor.execute(
            "SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", [f"login {address}"]
        )
    attempts = FailedLogin.objects
    attempts.filter(tried_at__lt=timezone.now() - KEPT).delete()
    for counted, most in (
        (attempts.of(username, address), ATTEMPTS),
        (attempts.filter(address=address), ADDRESS_ATTEMPTS),
    ):
        times = list(
            counted.counting().order_by("-tried_at").values_list("tried_at", flat=True)[:most]
        )
        if len(times) == most:
            return times[-1] + COOL_OFF
    return attempts.create(username=username, address=address)
