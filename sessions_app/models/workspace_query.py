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
"""A query that no node has taken for this long is not answered any more: its client has gone."""

CHANNEL = "code_executor_queries_"
"""Followed by a node's id; its workspace reader listens. Both may have 63 characters together."""

KEPT = timedelta(minutes=10)
"""An unfetched answer is removed after this: a slow client may take so long to read it."""

KEEP_AGAIN = timedelta(minutes=1)
"""When to retry a `keep` that a sandbox was too busy to take."""

_TAKE_NEXT = """
WITH next AS (
    SELECT query.id, session.client_id
    FROM sessions_app_workspacequery AS query
    JOIN sessions_app_session AS session ON session.id = query.session_id
    WHERE query.status = 'asked' AND session.node_id = %(node)s AND (
        CASE WHEN query.about = 'keep'
        THEN %(may_keep)s AND query.asked_at <= now()
            AND session.status IN ('ready', 'executing')
        ELSE query.asked_at > now() - %(latest)s END
      )
      AND session.id <> ALL(%(sessions)s::uuid[])
      AND (session.client_id IS NULL OR session.client_id <> ALL(%(clients)s::bigint[]))
    ORDER BY query.about = 'keep', query.asked_at
    LIMIT 1
    FOR UPDATE OF query SKIP LOCKED
)
UPDATE sessions_app_workspacequery AS row
SET status = 'taken'
FROM next
WHERE row.id = next.id
RETURNING row.id, row.session_id, row.about, row.path, row.asked_at, next.client_id
"""
_PUT_BACK = """
WITH back AS (
    UPDATE sessions_app_workspacequery AS row
    SET status = 'asked'
    FROM sessions_app_session AS session
    WHERE row.status = 'taken' AND session.id = row.session_id AND session.node_id = %s
      AND row.id <> ALL(%s::uuid[])
    RETURNING row.id
)
DELETE FROM sessions_app_workspacequerypiece WHERE query_id IN (SELECT id FROM back)
"""


@dataclass(frozen=True, kw_only=True, eq=False)
class TakenQuery:
    """A query that this process alone answers now."""

    query: WorkspaceQuery
    session_id: UUID
    client_id: int | None


class WorkspaceQueryStatus(models.TextChoices):
    ASKED = "asked", "asked"
    TAKEN = "taken", "taken"
    """The session's node is answering it."""
    ANSWERED = "answered", "answered"
    REFUSED = "refused", "refused"
    """`code` and `reason` say why."""


class WorkspaceQueryQuerySet(models.QuerySet["WorkspaceQuery"]):
    def transition(
        self, to: WorkspaceQueryStatus, *, expected: WorkspaceQueryStatus, **changes: Any
    ) -> bool:
        """Change status if it is still the expected one. False: another process was faster."""
        return self.filter(status=expected).update(status=to, **changes) > 0

    def awaited(self) -> Self:
        """Not taken yet, with a request waiting for the answer."""
        asked = self.filter(status=WorkspaceQueryStatus.ASKED, asked_at__gt=Now() - LATEST)
        return asked.exclude(about=WorkspaceQuery.About.KEEP)

    def needless(self) -> Self:
        """Answers that were not fetched, and `keep` queries of sandboxes that are gone."""
        keep = Q(about=WorkspaceQuery.About.KEEP)
        live = Session.objects.live().filter(pk=OuterRef("session_id"))
        return self.filter(~keep & Q(asked_at__lt=Now() - KEPT) | keep & ~Q(Exists(live)))


class WorkspaceQuery(models.Model):
    """A query about a session's running sandbox, sent to its node, and the answer. Fetching an
    answer removes it. A crash of the database server may lose these rows.

    `keep` needs no answer: it gives the sandbox the new length of its session's life. No request
    waits for it, and its row is removed when it is done.
    """

    Status = WorkspaceQueryStatus

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
    status = models.CharField(
        max_length=10, choices=WorkspaceQueryStatus, default=WorkspaceQueryStatus.ASKED
    )
    asked_at = models.DateTimeField(default=timezone.now)
    answer = models.JSONField(null=True)
    code = models.CharField(max_length=40, blank=True)
    reason = models.TextField(blank=True)

    objects = WorkspaceQueryQuerySet.as_manager()

    class Meta:
        verbose_name_plural = "workspace queries"
        default_permissions = ()
        constraints = [
            models.CheckConstraint(
                condition=Q(status__in=["asked", "taken"], answer__isnull=True, code="")
                | Q(status="answered", answer__isnull=False, code="")
                | Q(status="refused", answer__isnull=True) & ~Q(code=""),
                name="workspace_query_answer_fits_status",
            )
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
    ) -> TakenQuery | None:
        """asked → taken: the oldest query of the node's sessions that a request waits for, without
        those sessions and clients. If there is none, and `may_keep`, one to keep a sandbox.
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
        query_id, session_id, about, path, asked_at, client_id = row
        query = WorkspaceQuery(
            id=query_id,
            session_id=session_id,
            about=about,
            path=path,
            asked_at=asked_at,
            status=WorkspaceQueryStatus.TAKEN,
        )
        return TakenQuery(query=query, session_id=session_id, client_id=client_id)

    @staticmethod
    def put_back(node_id: UUID, *, except_queries: Sequence[UUID] = ()) -> None:
        """taken → asked: the process that was answering them has died, or has lost the database."""
        with connection.cursor() as cursor:
            cursor.execute(_PUT_BACK, [node_id, list(except_queries)])

    @staticmethod
    def ask_to_keep(session_id: UUID, node_id: UUID | None) -> None:
        """The session lives longer than its sandbox was started for. Call in the transaction that
        writes the new time: a `keep` that waits already is not taken before the commit, and serves
        for this one too.
        """
        keep = WorkspaceQuery.About.KEEP
        waiting = WorkspaceQuery.objects.filter(session_id=session_id, about=keep)
        waiting = waiting.filter(status=WorkspaceQueryStatus.ASKED)
        if not waiting.update(asked_at=Now()):
            WorkspaceQuery.objects.create(session_id=session_id, about=keep, asked_at=Now())
        if node_id is not None:
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_notify(%s, '')", [f"{CHANNEL}{node_id}"])

    @property
    def is_awaited(self) -> bool:
        return WorkspaceQuery.objects.filter(pk=self.pk).exists()

    def store_answer(self, answer: Any) -> bool:
        """taken → answered. False: no request waits for it any more."""
        return self._end(WorkspaceQueryStatus.ANSWERED, answer=answer)

    def refuse(self, code: str, reason: str) -> bool:
        """taken → refused."""
        return self._end(WorkspaceQueryStatus.REFUSED, code=code, reason=reason)

    def done(self) -> bool:
        """taken → removed: no request waits for an answer."""
        deleted, _ = WorkspaceQuery.objects.filter(
            pk=self.pk, status=WorkspaceQueryStatus.TAKEN
        ).delete()
        return deleted > 0

    def postpone(self) -> bool:
        """taken → asked, behind the others."""
        row = WorkspaceQuery.objects.filter(pk=self.pk)
        return row.transition(
            WorkspaceQueryStatus.ASKED,
            expected=WorkspaceQueryStatus.TAKEN,
            asked_at=Now() + KEEP_AGAIN,
        )

    def _end(self, to: WorkspaceQueryStatus, **changes: Any) -> bool:
        row = WorkspaceQuery.objects.filter(pk=self.pk)
        ended = row.transition(to, expected=WorkspaceQueryStatus.TAKEN, **changes)
        if ended:
            publish(self.pk)
        return ended


class WorkspaceQueryPieceQuerySet(models.QuerySet["WorkspaceQueryPiece"]):
    def unfetched(self) -> Self:
        return self.filter(written_at__lt=Now() - KEPT)


class WorkspaceQueryPiece(models.Model):
    """Bytes of an answer, in order. Fetched piece by piece, and removed by that."""

    query_id = models.UUIDField()
    number = models.PositiveIntegerField()
    data = models.BinaryField()
    written_at = models.DateTimeField(default=timezone.now)

    objects = WorkspaceQueryPieceQuerySet.as_manager()

    class Meta:
        default_permissions = ()
        constraints = [
            models.UniqueConstraint(
                fields=["query_id", "number"], name="workspace_query_piece_number"
            )
        ]

    def __str__(self) -> str:
        return f"{self.query_id} {self.number}"

    @staticmethod
    def keep(query: WorkspaceQuery, number: int, data: bytes) -> bool:
        """False: the query was taken back, and no more pieces are to be stored."""
        with connection.cursor() as cursor:
            cursor.execute(_KEEP_PIECE, [query.pk, number, data])
            return bool(cursor.rowcount)


# The lock makes a request that takes the query back wait, and remove this piece with the others.
_KEEP_PIECE = f"""
    WITH asked AS (
        SELECT id FROM {WorkspaceQuery._meta.db_table} WHERE id = %s FOR KEY SHARE
    )
    INSERT INTO {WorkspaceQueryPiece._meta.db_table} (query_id, number, data, written_at)
    SELECT id, %s, %s, statement_timestamp() FROM asked
"""  # noqa: S608 -- our own tables
