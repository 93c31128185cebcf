from __future__ import annotations

from datetime import date, datetime, time, timedelta
from typing import Any

from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone
from unfold.contrib.filters.admin import RangeDateFilter


class DayRangeFilter(RangeDateFilter):  # type: ignore[misc]
    """From the beginning of one day to the end of another. Unfold's own filter compares moments
    without a time zone, and leaves out the last day.
    """

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        first, last = self._day("from"), self._day("to")
        if first is not None:
            queryset = queryset.filter(**{f"{self.field_path}__gte": _midnight(first)})
        if last is not None:
            end = _midnight(last + timedelta(days=1))
            queryset = queryset.filter(**{f"{self.field_path}__lt": end})
        return queryset

    def _day(self, end: str) -> date | None:
        """None where nothing is given, or nothing that is a date."""
        try:
            return date.fromisoformat(self.used_parameters[f"{self.field_path}_{end}"])
        except (KeyError, ValueError):
            return None


def _midnight(day: date) -> datetime:
    return timezone.make_aware(datetime.combine(day, time.min))
