"""How long the console's pages take, over the database of DATABASE_URL: a GET of everything that it
offers, in this process.

    python -m tests.history --sessions 100000 --executions 1000000
    python -m tests.pages --slower-than 500 --pairs

Begun at the first page, every link is followed and every region that refreshes itself is asked for.
Of a list that is each of its filters' choices, each column to sort by, pages, searches and ranges
of days; with --pairs also any two choices at once. Of rows there are a few of each kind. Where a
page takes longer than --slower-than milliseconds at the first try, and at the median of three more,
it is named, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import itertools
import os
import re
import statistics
import time
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qsl, urlencode, urljoin, urlsplit

import django
from django.contrib.admin.views.main import ChangeList
from django.db import connection
from django.http import Http404
from django.test import Client
from django.test.utils import CaptureQueriesContext, setup_test_environment
from django.urls import resolve, reverse
from django.utils import timezone

FIRST = "/admin/"
ADDRESS = re.compile(r'(?:href|hx-get|data-refresh-url)="([^"#]+)')
NOT_A_PAGE = re.compile(r"/(logout|events|archive|jsi18n|autocomplete|password_change)/?$")
ROWS_OF_A_KIND = 3
QUERIES_OF_A_KIND = 6
DAYS_BACK = (1, 7, 80)
WORDS = ("print", "no such text anywhere", "0123abcd", "Candidate 77")


@dataclass
class Page:
    """What one address took, times in milliseconds."""

    address: str
    first: float
    median: float
    """Of three more, where the first one was slow."""
    view: str
    status: int
    statements: int

    def __str__(self) -> str:
        times = f"{self.median:8.1f} {self.first:8.1f}"
        return f"{times} {self.statements:3} statements  {self.address}"


@dataclass
class Walk:
    """Of all that is linked, `ROWS_OF_A_KIND` rows for each view."""

    client: Client
    slower_than: float = float("inf")
    pairs: bool = False
    verbose: bool = False
    rows_of_a_kind: int = ROWS_OF_A_KIND
    queries: bool = True
    """Whether pages are asked for with query strings, too."""
    pages: list[Page] = field(default_factory=list)
    _waiting: deque[str] = field(default_factory=lambda: deque([FIRST]))
    _seen: set[str] = field(default_factory=set)
    _of_kind: Counter[tuple[str, ...]] = field(default_factory=Counter)

    def run(self) -> list[Page]:
        while self._waiting:
            address = self._waiting.popleft()
            page, response = self._measured(address)
            self.pages.append(page)
            if self.verbose:
                print(page)
            context = response.context
            changelist = context.get("cl") if context is not None else None
            if urlsplit(address).query or response.streaming:
                continue  # what it leads to in turn is without end
            if self.queries and isinstance(changelist, ChangeList):
                self._add(urljoin(address, query) for query in self._of_list(changelist))
            self._add(self._linked(address, response.content.decode(errors="replace")))
        return self.pages

    def _measured(self, address: str) -> tuple[Page, Any]:
        page, response = self._asked(address)
        if page.first > self.slower_than:
            page.median = statistics.median(self._asked(address)[0].first for _ in range(3))
        return page, response

    def _asked(self, address: str) -> tuple[Page, Any]:
        began = time.perf_counter()
        with CaptureQueriesContext(connection) as sent:
            response = self.client.get(address)
        took = 1000 * (time.perf_counter() - began)
        return Page(
            address=address,
            first=took,
            median=took,
            view=_view(address) or "",
            status=response.status_code,
            statements=len(sent),
        ), response

    def _linked(self, address: str, text: str) -> Iterator[str]:
        for found in ADDRESS.findall(text):
            target = urlsplit(urljoin(address, found.replace("&amp;", "&")))
            view = _view(target.path)
            if target.netloc or view is None or NOT_A_PAGE.search(target.path):
                continue
            names = tuple(name for name, _ in parse_qsl(target.query))
            if names:
                kind, most = (view, *names), QUERIES_OF_A_KIND if self.queries else 0
            else:
                kind, most = (view,), self.rows_of_a_kind
            whole = target.path + (f"?{target.query}" if names else "")
            if whole not in self._seen and self._of_kind[kind] < most:
                self._of_kind[kind] += 1
                yield whole

    def _of_list(self, changelist: ChangeList) -> Iterator[str]:
        choices = [list(self._choices(changelist, spec)) for spec in changelist.filter_specs]
        for chosen in choices:
            yield from chosen
        if self.pairs:
            for one, other in itertools.combinations(choices, 2):
                for first, second in itertools.product(one, other):
                    yield f"{first}&{second.removeprefix('?')}"
        for column in range(1, len(changelist.list_display) + 1):
            yield from (f"?o={column}", f"?o=-{column}")
        for word in WORDS if changelist.search_fields else ():
            yield f"?{urlencode({'q': word})}"

    def _choices(self, changelist: ChangeList, spec: Any) -> Iterator[str]:
        ends = [name for name in spec.expected_parameters() if name.endswith(("_from", "_to"))]
        for end, days in itertools.product(ends, DAYS_BACK):
            yield f"?{urlencode({end: timezone.localdate() - timedelta(days=days)})}"
        if ends:
            return
        for choice in spec.choices(changelist):
            query = choice.get("query_string", "")
            if len(query) > 1 and not choice.get("selected"):
                yield query

    def _add(self, addresses: Iterator[str]) -> None:
        for address in addresses:
            if address not in self._seen:
                self._seen.add(address)
                self._waiting.append(address)


def _view(address: str) -> str | None:
    """None: this address is none of the console's."""
    try:
        match = resolve(urlsplit(address).path)
    except Http404:
        return None
    return match.view_name if address.startswith(FIRST) else None


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="tests.pages", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--slower-than", type=float, default=500.0, metavar="MS")
    parser.add_argument("--pairs", action="store_true", help="two filters at once, too")
    parser.add_argument("--verbose", action="store_true", help="each page as it comes")
    parser.add_argument("--slowest", type=int, default=25, help="how many are shown")
    options = parser.parse_args()
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "codeexec.settings")
    django.setup()
    setup_test_environment()

    from django.contrib.auth.models import User

    client = Client(HTTP_HOST="localhost")
    user = User.objects.create_superuser(f"tests.pages {os.getpid()}")
    try:
        client.force_login(user)
        client.get(reverse("admin:index"))  # what a process does once
        pages = Walk(client, options.slower_than, options.pairs, options.verbose).run()
    finally:
        user.delete()
    pages.sort(key=lambda page: page.median, reverse=True)
    for page in pages[: options.slowest]:
        print(page)
    slow = [page for page in pages if page.median > options.slower_than]
    median = statistics.median(page.median for page in pages)
    views = len({page.view for page in pages})
    print(f"{len(pages)} addresses of {views} views, median {median:.0f} ms, {len(slow)} slow")
    return 1 if slow else 0


if __name__ == "__main__":
    raise SystemExit(main())
