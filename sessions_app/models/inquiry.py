from __future__ import annotations

from datetime import timedelta
from typing import Any, Self
from uuid import UUID, uuid4

from django.db import connection, models
from django.db.models import Q
from django.utils import timezone

from codeexec.notifications import publish

LATEST = timedelta(seconds=15)
"""A question that nobody took up for this long isn't answered any more: whoever asked has gone."""

KEPT = timedelta(minutes=10)
"""An answer that nobody has fetched goes after this: a slow client may take so long over one."""


class InquiryStatus(models.TextChoices):
    ASKED = "asked", "asked"
    TAKEN = "taken", "taken"
    """The session's node is looking."""
    ANSWERED = "answered", "answered"
    REFUSED = "refused", "refused"
    """`code` and `reason` say why."""


class InquiryQuerySet(models.QuerySet["Inquiry"]):
    def transition(self, to: InquiryStatus, *, expected: InquiryStatus, **changes: Any) -> bool:
        """Change status if it is still the expected one; False: somebody else was faster."""
        return self.filter(status=expected).update(status=to, **changes) > 0

    def young(self) -> Self:
        return self.filter(asked_at__gt=timezone.now() - LATEST)

    def unfetched(self) -> Self:
        return self.filter(asked_at__lt=timezone.now() - KEPT)


class Inquiry(models.Model):
    """What somebody wants to know of a session's running sandbox, on its way to the node that has
    it, and the answer on its way back. Whoever fetches an answer removes it. Nothing refers to
    these rows, and a crash of the database server may lose them.
    """

    Status = InquiryStatus

    class About(models.TextChoices):
        FILES = "files", "what files there are"
        FILE = "file", "one file"
        ARCHIVE = "archive", "all files"
        FIGURES = "figures", "what is used now"

    id = models.UUIDField(primary_key=True, default=uuid4, editable=False)
    session_id = models.UUIDField()
    about = models.CharField(max_length=10, choices=About)
    path = models.TextField(blank=True)
    status = models.CharField(max_length=10, choices=InquiryStatus, default=InquiryStatus.ASKED)
    asked_at = models.DateTimeField(default=timezone.now)
    answer = models.JSONField(null=True)
    code = models.CharField(max_length=40, blank=True)
    reason = models.TextField(blank=True)

    objects = InquiryQuerySet.as_manager()

    class Meta:
        verbose_name_plural = "inquiries"
        default_permissions = ()
        constraints = [
            models.CheckConstraint(
                condition=Q(status__in=["asked", "taken"], answer__isnull=True, code="")
                | Q(status="answered", answer__isnull=False, code="")
                | Q(status="refused", answer__isnull=True) & ~Q(code=""),
                name="inquiry_answer_fits_status",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.about} of {self.session_id}"

    @staticmethod
    def take(inquiry_id: UUID | str) -> Inquiry | None:
        """asked → taken; None: it came too late, or a second time."""
        row = Inquiry.objects.young().filter(pk=inquiry_id)
        if not row.transition(InquiryStatus.TAKEN, expected=InquiryStatus.ASKED):
            return None
        return Inquiry.objects.filter(pk=inquiry_id).first()

    def tell(self, answer: Any) -> bool:
        """taken → answered. False: nobody waits for it any more."""
        return self._end(InquiryStatus.ANSWERED, answer=answer)

    def refuse(self, code: str, reason: str) -> bool:
        """taken → refused."""
        return self._end(InquiryStatus.REFUSED, code=code, reason=reason)

    def _end(self, to: InquiryStatus, **changes: Any) -> bool:
        row = Inquiry.objects.filter(pk=self.pk)
        ended = row.transition(to, expected=InquiryStatus.TAKEN, **changes)
        if ended:
            publish(self.pk)
        return ended


class InquiryPieceQuerySet(models.QuerySet["InquiryPiece"]):
    def unfetched(self) -> Self:
        return self.filter(written_at__lt=timezone.now() - KEPT)


class InquiryPiece(models.Model):
    """Bytes of an answer, in order. Fetched piece by piece, and removed by that."""

    inquiry_id = models.UUIDField()
    number = models.PositiveIntegerField()
    data = models.BinaryField()
    written_at = models.DateTimeField(default=timezone.now)

    objects = InquiryPieceQuerySet.as_manager()

    class Meta:
        default_permissions = ()
        constraints = [
            models.UniqueConstraint(fields=["inquiry_id", "number"], name="inquiry_piece_number")
        ]

    def __str__(self) -> str:
        return f"{self.inquiry_id} {self.number}"

    @staticmethod
    def keep(inquiry: Inquiry, number: int, data: bytes) -> bool:
        """False: the question was taken back, and nothing more is to be kept."""
        with connection.cursor() as cursor:
            cursor.execute(_KEEP_PIECE, [inquiry.pk, number, data, timezone.now()])
            return bool(cursor.rowcount)


# The lock has whoever takes the question back wait, and remove this piece with the others.
_KEEP_PIECE = f"""
    WITH asked AS (
        SELECT id FROM {Inquiry._meta.db_table} WHERE id = %s FOR KEY SHARE
    )
    INSERT INTO {InquiryPiece._meta.db_table} (inquiry_id, number, data, written_at)
    SELECT id, %s, %s, %s FROM asked
"""  # noqa: S608 -- tables of ours
