from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Self
from uuid import UUID, uuid4

from django.db import connection, models
from django.db.models import Exists, OuterRef, Q
from django.db.models.functions import Now
from django.utils import timezone

from codeexec.db.notifications import publish
from sessions_app.models.session import Session

LATEST = timedelta(seconds=15)
"""A question that nobody took up for this long isn't answered any more: whoever asked has gone."""

CHANNEL = "code_executor_inquiries_"
"""And the id of a node: its workspace reader listens."""

KEPT = timedelta(minutes=10)
"""An answer that nobody has fetched goes after this: a slow client may take so long over one."""

KEEP_AGAIN = timedelta(minutes=1)
"""A sandbox that was too busy to take its longer life is told again after this."""

_TAKE_NEXT = """
WITH next AS (
    SELECT inquiry.id, session.client_id
    FROM sessions_app_inquiry AS inquiry
    JOIN sessions_app_session AS session ON session.id = inquiry.session_id
    WHERE inquiry.status = 'asked' AND session.node_id = %(node)s AND (
        CASE WHEN inquiry.about = 'keep'
        THEN %(may_keep)s AND inquiry.asked_at <= now()
            AND session.status IN ('ready', 'executing')
        ELSE inquiry.asked_at > now() - %(latest)s END
      )
      AND session.id <> ALL(%(sessions)s::uuid[])
      AND (session.client_id IS NULL OR session.client_id <> ALL(%(clients)s::bigint[]))
    ORDER BY inquiry.about = 'keep', inquiry.asked_at
    LIMIT 1
    FOR UPDATE OF inquiry SKIP LOCKED
)
UPDATE sessions_app_inquiry AS row
SET status = 'taken'
FROM next
WHERE row.id = next.id
RETURNING row.id, row.session_id, row.about, row.path, row.asked_at, next.client_id
"""
_PUT_BACK = """
WITH back AS (
    UPDATE sessions_app_inquiry AS row
    SET status = 'asked'
    FROM sessions_app_session AS session
    WHERE row.status = 'taken' AND session.id = row.session_id AND session.node_id = %s
      AND row.id <> ALL(%s::uuid[])
    RETURNING row.id
)
DELETE FROM sessions_app_inquirypiece WHERE inquiry_id IN (SELECT id FROM back)
"""


@dataclass(frozen=True, kw_only=True, eq=False)
class TakenInquiry:
    """One that this process answers now: nobody else will."""

    inquiry: Inquiry
    session_id: UUID
    client_id: int | None


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

    def awaited(self) -> Self:
        """Not taken up yet, and somebody waits for the answer."""
        asked = self.filter(status=InquiryStatus.ASKED, asked_at__gt=timezone.now() - LATEST)
        return asked.exclude(about=Inquiry.About.KEEP)

    def needless(self) -> Self:
        """Answers that nobody has fetched, and longer lives of sandboxes that are gone."""
        keep = Q(about=Inquiry.About.KEEP)
        live = Session.objects.live().filter(pk=OuterRef("session_id"))
        return self.filter(~keep & Q(asked_at__lt=timezone.now() - KEPT) | keep & ~Q(Exists(live)))


class Inquiry(models.Model):
    """What somebody wants to know of a session's running sandbox, on its way to the node that has
    it, and the answer on its way back. Whoever fetches an answer removes it. Nothing refers to
    these rows, and a crash of the database server may lose them.

    `keep` asks for nothing: the sandbox is told how long its session lives, nobody waits for it,
    and its row goes when it is done.
    """

    Status = InquiryStatus

    class About(models.TextChoices):
        FILES = "files", "what files there are"
        FILE = "file", "one file"
        ARCHIVE = "archive", "all files"
        FIGURES = "figures", "what is used now"
        KEEP = "keep", "to live as long as its session"

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
    def take_next(
        node_id: UUID,
        *,
        except_sessions: Sequence[UUID] = (),
        except_clients: Sequence[int] = (),
        may_keep: bool = True,
    ) -> TakenInquiry | None:
        """asked → taken: the oldest that somebody waits for, of the node's sessions but those, and
        of others than those clients; if there is none, and `may_keep`, one to keep a sandbox.
        """
        wanted: dict[str, Any] = {
            "node": node_id,
            "may_keep": may_keep,
            "latest": LATEST,
            "sessions": list(except_sessions),
            "clients": list(except_clients),
        }
        with connection.cursor() as cursor:
            cursor.execute(_TAKE_NEXT, wanted)
            row = cursor.fetchone()
        if row is None:
            return None
        inquiry_id, session_id, about, path, asked_at, client_id = row
        inquiry = Inquiry(
            id=inquiry_id,
            session_id=session_id,
            about=about,
            path=path,
            asked_at=asked_at,
            status=InquiryStatus.TAKEN,
        )
        return TakenInquiry(inquiry=inquiry, session_id=session_id, client_id=client_id)

    @staticmethod
    def put_back(node_id: UUID, *, except_inquiries: Sequence[UUID] = ()) -> None:
        """taken → asked: who was answering them has died, or has lost the database."""
        with connection.cursor() as cursor:
            cursor.execute(_PUT_BACK, [node_id, list(except_inquiries)])

    @staticmethod
    def ask_to_keep(session_id: UUID, node_id: UUID | None) -> None:
        """The session lives longer than its sandbox was started for. In a transaction that has
        written the new time: one that waits already is kept from being taken up before its end,
        and does for this one too.
        """
        keep = Inquiry.About.KEEP
        waiting = Inquiry.objects.filter(session_id=session_id, about=keep)
        waiting = waiting.filter(status=InquiryStatus.ASKED)
        if not waiting.update(asked_at=Now()):
            Inquiry.objects.create(session_id=session_id, about=keep, asked_at=Now())
        if node_id is not None:
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_notify(%s, '')", [f"{CHANNEL}{node_id}"])

    @property
    def is_awaited(self) -> bool:
        return Inquiry.objects.filter(pk=self.pk).exists()

    def tell(self, answer: Any) -> bool:
        """taken → answered. False: nobody waits for it any more."""
        return self._end(InquiryStatus.ANSWERED, answer=answer)

    def refuse(self, code: str, reason: str) -> bool:
        """taken → refused."""
        return self._end(InquiryStatus.REFUSED, code=code, reason=reason)

    def done(self) -> bool:
        """taken → gone: nobody waits for an answer."""
        deleted, _ = Inquiry.objects.filter(pk=self.pk, status=InquiryStatus.TAKEN).delete()
        return deleted > 0

    def postpone(self) -> bool:
        """taken → asked, behind the others."""
        row = Inquiry.objects.filter(pk=self.pk)
        return row.transition(
            InquiryStatus.ASKED, expected=InquiryStatus.TAKEN, asked_at=Now() + KEEP_AGAIN
        )

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
