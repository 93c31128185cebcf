"""What `static/js/refresh.js` promises, in a real browser; the test itself answers its pages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from django.conf import settings
from playwright.sync_api import Page, Route, expect

from tests.support.chromium import PATIENCE_MS, chromium

pytestmark = pytest.mark.browser

SITE = "http://console.test"
PART = f"{SITE}/part"
SCRIPT = Path(settings.BASE_DIR) / "static/js/refresh.js"
EVERY = 0.1
"""Seconds between two refreshes."""


class Answers:
    """A page with one region, of whose address the test says what it answers."""

    def __init__(self, tab: Page) -> None:
        self.tab = tab
        self.asked = 0
        self.status = 200
        self.part = self.page = ""
        tab.route(f"{SITE}/**", self._answer)

    @staticmethod
    def region(content: str, url: str = "/part", seconds: float = EVERY) -> str:
        address = f'data-refresh-url="{url}" data-refresh-seconds="{seconds}"'
        return f'<section id="region" {address if url else ""}>{content}</section>'

    def open(self, content: str = "first") -> None:
        self.part = self.region(content)
        script = '<script src="/refresh.js"></script>'
        self.page = f"<!doctype html>{self.part}<p data-refresh-notice></p>{script}"
        self.tab.goto(f"{SITE}/")

    def become(self, content: str, **region: str) -> None:
        self.part = self.region(content, **region)

    def wait_for_more(self, times: int = 2) -> None:
        """Until the region has been asked for that often from now on."""
        last = self.asked + times
        while self.asked < last:
            self.tab.wait_for_event("response", timeout=PATIENCE_MS)

    def _answer(self, route: Route) -> None:
        html = {"content_type": "text/html; charset=utf-8"}
        if route.request.url == f"{SITE}/refresh.js":
            route.fulfill(body=SCRIPT.read_text(), content_type="text/javascript")
        elif route.request.url == PART:
            self.asked += 1
            route.fulfill(status=self.status, body=self.part, **html)
        else:
            route.fulfill(body=self.page, **html)


@pytest.fixture(scope="module")
def tab() -> Iterator[Page]:
    with chromium() as browser:
        tab = browser.new_page()
        tab.set_default_timeout(PATIENCE_MS)
        yield tab


@pytest.fixture
def answers(tab: Page) -> Iterator[Answers]:
    problems: list[str] = []
    tab.once("pageerror", lambda error: problems.append(str(error)))
    yield Answers(tab)
    tab.goto("about:blank")
    tab.unroute_all(behavior="wait")
    assert problems == []


def text_becomes(answers: Answers, text: str) -> None:
    expect(answers.tab.locator("#region")).to_have_text(text, timeout=PATIENCE_MS)


def hide(tab: Page, hidden: bool) -> None:
    """As the browser does when another tab comes to the front, which none without a screen does."""
    tab.evaluate(
        """hidden => {
          Object.defineProperty(document, "hidden", { configurable: true, get: () => hidden });
          document.dispatchEvent(new Event("visibilitychange"));
        }""",
        hidden,
    )


def test_a_region_becomes_what_its_address_answers(answers: Answers) -> None:
    answers.open()
    text_becomes(answers, "first")
    answers.become("second")
    text_becomes(answers, "second")
    answers.part = f"<!doctype html><h1>A whole page</h1>{answers.region('third')}<p>more</p>"
    text_becomes(answers, "third")
    expect(answers.tab.locator("h1")).to_have_count(0)


def test_an_answer_without_the_region_is_a_failure_unless_somebody_knows_better(
    answers: Answers,
) -> None:
    answers.open()
    answers.part = "<p>nothing of the kind</p>"
    expect(answers.tab.locator("#region")).to_have_attribute("data-refresh-state", "late")
    answers.open()
    answers.tab.evaluate(
        """document.getElementById("region").addEventListener("gone", event => {
          event.preventDefault();
          event.target.dataset.gone = "yes";
        })"""
    )
    answers.part = "<p>nothing of the kind</p>"
    expect(answers.tab.locator("#region")).to_have_attribute("data-gone", "yes")
    answers.wait_for_more(2)
    expect(answers.tab.locator("[data-refresh-notice]")).to_have_text("")


def test_a_hidden_tab_asks_for_nothing_and_a_shown_one_at_once(answers: Answers) -> None:
    answers.open()
    answers.wait_for_more(1)
    hide(answers.tab, True)
    text_becomes(answers, "first")
    before = answers.asked
    answers.tab.wait_for_timeout(5 * EVERY * 1000)
    assert answers.asked <= before + 1  # one may have been on its way
    answers.part = answers.region("second", seconds=3600)
    hide(answers.tab, False)
    text_becomes(answers, "second")
    hide(answers.tab, True)
    answers.become("third")
    hide(answers.tab, False)
    text_becomes(answers, "third")


def test_what_has_the_focus_and_what_is_opened_stays(answers: Answers) -> None:
    rows = '<a href="#" id="{0}">row {0}</a>'
    opened = "<details><summary>more</summary>{}</details>"
    answers.open(rows.format("b") + opened.format("old"))
    answers.tab.focus("#b")
    answers.tab.click("summary")
    answers.tab.focus("#b")
    answers.tab.evaluate("window.known = document.getElementById('b')")
    answers.become(rows.format("a") + rows.format("b") + opened.format("new"))
    expect(answers.tab.locator("details")).to_contain_text("new")
    assert answers.tab.evaluate("document.activeElement === window.known")
    assert answers.tab.locator("details").get_attribute("open") is not None
    answers.become(rows.format("a"))
    text_becomes(answers, "row a")
    assert answers.tab.evaluate("document.activeElement.id") == "region"


def test_a_region_waits_while_something_in_it_is_selected(answers: Answers) -> None:
    answers.open("<p>some words</p>")
    answers.tab.evaluate("getSelection().selectAllChildren(document.querySelector('#region p'))")
    answers.become("<p>others</p>")
    answers.wait_for_more()
    text_becomes(answers, "some words")
    assert answers.tab.evaluate("getSelection().toString()") == "some words"
    answers.tab.evaluate("getSelection().removeAllRanges()")
    text_becomes(answers, "others")


@pytest.mark.parametrize(
    ("field", "fill", "undo"),
    [
        ("<input id=field>", "field.value = 'mine'", "field.value = ''"),
        ("<input id=field type=checkbox>", "field.checked = true", "field.checked = false"),
        (
            "<select id=field><option>a<option>b</select>",
            "field.selectedIndex = 1",
            "field.selectedIndex = 0",
        ),
        ("<textarea id=field></textarea>", "field.focus()", "field.blur()"),
    ],
)
def test_a_region_waits_while_a_form_in_it_is_filled_in(
    answers: Answers, field: str, fill: str, undo: str
) -> None:
    answers.open(f"<form>{field}</form><b>old</b>")
    answers.tab.evaluate(fill)
    answers.become(f"<form>{field}</form><b>new</b>")
    answers.wait_for_more()
    expect(answers.tab.locator("b")).to_have_text("old")
    answers.tab.evaluate(undo)
    expect(answers.tab.locator("b")).to_have_text("new")


def test_a_region_whose_new_self_has_no_address_is_final(answers: Answers) -> None:
    answers.open()
    answers.become("last", url="")
    text_becomes(answers, "last")
    before = answers.asked
    answers.tab.wait_for_timeout(4 * EVERY * 1000)
    assert answers.asked == before


def test_a_failure_is_said_and_mended(answers: Answers) -> None:
    notice = answers.tab.locator("[data-refresh-notice]")
    answers.open()
    answers.status = 503
    expect(notice).to_contain_text("does not answer")
    expect(answers.tab.locator("#region")).to_have_attribute("data-refresh-state", "late")
    text_becomes(answers, "first")
    answers.status = 200
    answers.become("back")
    text_becomes(answers, "back")
    expect(notice).to_have_text("")
    expect(answers.tab.locator("#region")).to_have_attribute("data-refresh-state", "fresh")


def test_a_region_that_is_removed_takes_its_failure_with_it(answers: Answers) -> None:
    notice = answers.tab.locator("[data-refresh-notice]")
    inner = f'<p id="inner" data-refresh-url="/inner" data-refresh-seconds="{EVERY}">inner</p>'
    answers.open(inner)
    answers.page = "nothing of it"
    expect(notice).to_contain_text("does not answer")
    answers.become("only this")
    expect(notice).to_have_text("")
    expect(answers.tab.locator("#region")).to_have_text("only this")


@pytest.mark.parametrize("status", [401, 403, 404])
def test_who_may_not_see_a_region_any_more_is_told_and_asks_no_more(
    answers: Answers, status: int
) -> None:
    answers.open()
    answers.status = status
    expect(answers.tab.locator("[data-refresh-notice]")).to_contain_text("Load the page again")
    before = answers.asked
    answers.tab.evaluate("region.dispatchEvent(new Event('refresh'))")
    answers.tab.wait_for_timeout(3 * EVERY * 1000)
    assert answers.asked == before


def test_a_region_is_refreshed_when_it_is_told_to(answers: Answers) -> None:
    answers.open()
    answers.part = answers.region("slow", seconds=3600)
    text_becomes(answers, "slow")
    answers.tab.evaluate(
        "addEventListener('refreshed', event => { window.told = event.target.id })"
    )
    answers.become("asked for")
    answers.tab.evaluate("region.dispatchEvent(new Event('refresh'))")
    text_becomes(answers, "asked for")
    assert answers.tab.evaluate("told") == "region"


def test_what_is_answered_runs_no_script(answers: Answers) -> None:
    answers.open()
    answers.become("<script>window.obeyed = 1</script><p>new</p>")
    expect(answers.tab.locator("#region p")).to_have_text("new")
    assert answers.tab.evaluate("window.obeyed") is None
