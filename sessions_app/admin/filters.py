from __future__ import annotations

from datetime import date, datetime, time, timedelta
from typing import Any

from django.contrib.admin import ChoicesFieldListFilter, SimpleListFilter
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone
from unfold.contrib.filters.admin import RangeDateFilter

from sessions_app.monitoring.period_figures import PERIODS


class DayRangeFilter(RangeDateFilter):  # type: ignore[misc]
    """From the beginning of one day to the end of another. Unfold's own filter compares moments
    without a time zone, and leaves out the last day.
    """

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        start, end = chosen_days(request, self.field_path)
        if start is not None:
            queryset = queryset.filter(**{f"{self.field_path}__gte": start})
        if end is not None:
            queryset = queryset.filter(**{f"{self.field_path}__lt": end})
        return queryset


class OwnStatusFilter(ChoicesFieldListFilter):
    """Filters by the rows' own `in_status`, which knows the query for each status."""

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        status = request.GET.get(self.lookup_kwarg)
        rows: Any = queryset if status is None else queryset.in_status(status)  # type: ignore[attr-defined]
        filtered: QuerySet[Any] | None = super().queryset(request, rows)
        return rows if filtered is None else filtered


class WithinFilter(SimpleListFilter):
    """Runs that were queued within one of the dashboard's periods, as that counts them."""

    title = "queued within"
    parameter_name = "queued_at_within"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(name, f"the last {name}") for name in PERIODS]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        period = PERIODS.get(self.value() or "")
        if period is None:
            return queryset
        return queryset.filter(queued_at__gte=period.begins(timezone.now())[0])


class DurationFilter(SimpleListFilter):
    """How long programs ran, in steps of ten."""

    title = "duration"
    parameter_name = "ran"
    steps = (
        ("ms", "up to 0.1 s", None, 0.1),
        ("tenths", "0.1 to 1 s", 0.1, 1.0),
        ("seconds", "1 to 10 s", 1.0, 10.0),
        ("long", "more than 10 s", 10.0, None),
    )

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(name, title) for name, title, _, _ in self.steps]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        for name, _, least, most in self.steps:
            if name == self.value():
                if least is not None:
                    queryset = queryset.filter(wall_seconds__gt=least)
                if most is not None:
                    queryset = queryset.filter(wall_seconds__lte=most)
        return queryset


def chosen_days(request: HttpRequest, field: str) -> tuple[datetime | None, datetime | None]:
    """The moment from which, and that before which; None where there is no such day."""
    first, last = (_day(request.GET.get(f"{field}_{end}", "")) for end in ("from", "to"))
    return (
        None if first is None else _midnight(first),
        None if last is None or last == date.max else _midnight(last + timedelta(days=1)),
    )


def _day(text: str) -> date | None:
    try:
        return date.fromisoformat(text)
    except ValueError:
        return None


def _midnight(day: date) -> datetime:
    return timezone.make_aware(datetime.combine(day, time.min))
