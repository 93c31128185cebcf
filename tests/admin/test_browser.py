"""The console, the index page and the documentation in a real browser, against the real
application, with workers that do what comes.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import uvicorn
from django.conf import settings
from django.contrib.auth.models import User
from django.db import connections
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from playwright.sync_api import Browser, Dialog, Page, Request, Response, Route, expect

from codeexec.http.serving import Application
from codeexec.http.threads import threads
from environments_app.models import Environment, EnvironmentBuild, NodeBuild
from sessions_app.models import Execution, Node
from sessions_app.services.executions import RunRequest, submit_execution
from sessions_app.services.sessions import open_session
from tests.support.api_client import bring_back_receivers
from tests.support.chromium import PATIENCE_MS, chromium
from tests.support.console_fixtures import HOSTILE, execution, page, session
from tests.support.patience import LONG, eventually
from tests.support.working import working

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

PASSWORD = "correct horse battery staple"
PARTING_SECONDS = 5
"""For answers that go on when the server ends, as `run_api` has some."""
WIDTHS = (1280, 1920)


@contextmanager
def serving() -> Iterator[str]:
    """The application on a free port; yields its address."""
    config = uvicorn.Config(
        Application(),
        port=0,
        log_level="critical",  # that it ends streams which go on is no error here
        ws="none",
        timeout_graceful_shutdown=PARTING_SECONDS,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        assert eventually(lambda: server.started or not thread.is_alive())
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(LONG)
        hangs = thread.is_alive()
        server.force_exit = True
        thread.join()
        for each in threading.enumerate():
            if each.name == "closing":  # it waits for work that has gone on longer than the server
                each.join()
        threads.close()
        bring_back_receivers()
        assert not hangs


@pytest.fixture
def site(browser: Browser, this: Node) -> Iterator[str]:
    with serving() as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One for all tests: each has a context of its own, with its cookies, in `tab`."""
    with pytest.MonkeyPatch.context() as patch, chromium() as browser:
        # Playwright keeps an event loop in this thread, which Django takes for an asynchronous
        # caller.
        patch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")
        yield browser
        connections.close_all()  # those of this event loop; the test's others are elsewhere


@pytest.fixture
def problems() -> list[str]:
    """What `tab` has complained about; a test that expects none looks at it."""
    return []


@pytest.fixture
def tab(browser: Browser, site: str, problems: list[str]) -> Iterator[Page]:
    context = browser.new_context(base_url=site, viewport={"width": 1280, "height": 800})
    tab = context.new_page()
    tab.set_default_timeout(PATIENCE_MS)

    def on_response(response: Response) -> None:
        if response.status >= 400:
            problems.append(f"{response.status} {response.url}")

    def on_dialog(dialog: Dialog) -> None:
        problems.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def on_failure(request: Request) -> None:
        if request.failure != "net::ERR_ABORTED":  # what a page that is left doesn't wait for
            problems.append(f"failed: {request.url}")

    tab.on("response", on_response)
    tab.on("dialog", on_dialog)
    tab.on("pageerror", lambda error: problems.append(f"error: {error}"))
    tab.on("requestfailed", on_failure)
    tab.on(
        "console",
        lambda line: problems.append(f"console: {line.text}") if line.type == "error" else None,
    )
    yield tab
    context.close()


@pytest.fixture
def operator(tab: Page, site: str) -> Page:
    """Has a session's cookie, and no page yet."""
    client = Client()
    client.force_login(User.objects.create_superuser("operator", password=PASSWORD))
    name = settings.SESSION_COOKIE_NAME
    tab.context.add_cookies([{"name": name, "value": client.cookies[name].value, "url": site}])
    return tab


@pytest.fixture
def run(this: Node, python: Environment) -> Execution:
    return execution(
        session(python, this, container_id="c" * 64), code="print(6 * 7)", stdout=b"42\n"
    )


def no_sideways_scrolling(tab: Page) -> bool:
    return bool(
        tab.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    )


def test_an_operator_logs_in_and_finds_an_execution(
    tab: Page, run: Execution, problems: list[str]
) -> None:
    User.objects.create_superuser("operator", password=PASSWORD)
    tab.goto("/admin/")
    tab.fill("#id_username", "operator")
    tab.fill("#id_password", PASSWORD)
    tab.click("button[type=submit]")
    expect(tab.locator("#dashboard")).to_be_visible()
    tab.get_by_role("link", name="Executions").click()
    row = tab.locator("#result_list tbody tr")
    expect(row).to_have_count(1)
    expect(row).to_contain_text("40 ms")
    row.get_by_role("link", name=str(run.pk)[:8]).click()
    expect(tab).to_have_url(re.compile(page(run)))
    expect(tab.locator("pre.program-text").nth(0)).to_have_text("print(6 * 7)")
    expect(tab.locator("pre.program-text").nth(1)).to_have_text("42\n")
    tab.get_by_role("link", name=str(run.session_id)).click()
    expect(tab).to_have_url(re.compile(page(run.session)))
    assert problems == []


def test_the_dashboard_follows_what_happens(
    operator: Page, python: Environment, this: Node, problems: list[str]
) -> None:
    operator.goto("/admin/")
    expect(operator.locator("#dashboard")).to_contain_text("Nothing has been run yet")
    late = execution(session(python, this))
    link = operator.locator("#dashboard").get_by_role("link", name=str(late.pk)[:8])
    expect(link).to_be_visible()
    assert problems == []


@pytest.mark.thorough
def test_every_list_opens_on_a_wide_and_on_a_narrow_screen(
    operator: Page, run: Execution, problems: list[str]
) -> None:
    addresses = pages_of_the_console(operator)
    assert len(addresses) == 16
    for address in [*addresses, page(run), page(run.session), page(run.session.node)]:
        operator.goto(address)
        for width in (400, 1280):
            operator.set_viewport_size({"width": width, "height": 800})
            assert no_sideways_scrolling(operator), (address, width)
    assert problems == []


def wait_for_refreshes(tab: Page, times: int) -> None:
    """Until the list has been read that often from now on."""
    for _ in range(times):
        tab.wait_for_event("response", lambda response: response.url == tab.url)


def test_a_list_empties_and_fills_by_itself(
    operator: Page, this: Node, python: Environment, problems: list[str]
) -> None:
    first = session(python, this)
    rows = operator.locator("#result_list")
    operator.goto(reverse("admin:sessions_app_session_changelist") + "?status__exact=ready")
    expect(rows).to_contain_text(str(first.pk)[:8])
    wait_for_refreshes(operator, 2)
    second = session(python, this)
    expect(rows).to_contain_text(str(second.pk)[:8])
    for each in (first, second):
        assert each.fail("It was given up.")
    expect(rows).to_have_count(0)
    wait_for_refreshes(operator, 2)
    third = session(python, this)
    expect(rows).to_contain_text(str(third.pk)[:8])
    assert problems == []


def test_a_list_says_when_it_is_not_up_to_date(operator: Page, this: Node) -> None:
    notice = operator.locator("[data-refresh-notice]")
    operator.goto(reverse("admin:sessions_app_session_changelist"))
    expect(notice).to_be_hidden()
    operator.route(operator.url, lambda route: route.fulfill(status=503))
    expect(notice).to_contain_text("the service does not answer")
    operator.unroute_all()
    expect(notice).to_be_hidden()


def test_an_operator_stops_a_session(operator: Page, run: Execution, problems: list[str]) -> None:
    operator.goto(page(run.session))
    operator.locator("[hx-get*=stop_this_session]").first.click()
    operator.get_by_role("button", name="Stop it").click()
    expect(operator.get_by_text("The session is stopping.")).to_be_visible()
    run.session.refresh_from_db()
    assert (run.session.status, run.session.stop_reason) == ("stopping", "operator")
    assert problems == []


def test_an_operator_reads_what_a_candidate_has_written(
    operator: Page, python: Environment, problems: list[str]
) -> None:
    code = f"import os\nos.mkdir('out')\nopen('out/notes.txt', 'w').write({HOSTILE!r} * 3)"
    opened = open_session(environment_name="python")
    submit_execution(opened.pk, RunRequest(code=code))
    with working():
        eventually(lambda: not Execution.objects.unfinished().exists())
        operator.goto(reverse("admin:sessions_app_session_workspace", args=(opened.pk,)))
        expect(operator.locator(".console-files tbody tr")).to_have_count(3)
        for width in WIDTHS:
            operator.set_viewport_size({"width": width, "height": 900})
            assert no_sideways_scrolling(operator)
        operator.get_by_role("link", name="out/notes.txt").click()
        expect(operator.locator("pre.program-text")).to_have_text(HOSTILE * 3)
        with operator.expect_download() as download:
            operator.get_by_role("link", name="Download").click()
        assert download.value.path().read_text() == HOSTILE * 3
        operator.get_by_role("link", name="All files").click()
        with operator.expect_download() as archive:
            operator.get_by_role("link", name="Download all").click()
        assert archive.value.suggested_filename == f"session-{opened.pk}.tar.gz"
    assert problems == []


def test_what_a_program_wrote_is_shown_and_not_obeyed(
    operator: Page, python: Environment, this: Node, problems: list[str]
) -> None:
    hostile = session(python, this, metadata={"candidate": HOSTILE})
    row = execution(
        hostile, code=HOSTILE, stdout=HOSTILE.encode(), stdin=b"<img src=x onerror=alert()>"
    )
    for address in (page(row), page(hostile), "/admin/", "/admin/sessions_app/execution/"):
        operator.goto(address)
    operator.goto(page(row))
    expect(operator.locator("pre.program-text").first).to_have_text(HOSTILE)
    assert problems == []


def test_the_index_page_shows_health_and_runs_a_program(
    tab: Page, python: Environment, problems: list[str]
) -> None:
    with working():
        tab.goto("/")
        expect(tab.locator("#health-status")).to_have_text("healthy")
        expect(tab.locator("#environment")).to_have_value("python")
        expect(tab.locator("#code")).to_have_value(re.compile("greeting"))
        tab.fill("#code", "import sys\nprint('<b>bold</b>')\nprint('oh', file=sys.stderr)")
        tab.get_by_role("button", name="Run").click()
        expect(tab.locator("#verdict")).to_have_text("ok")
        expect(tab.locator("#stdout")).to_have_text("<b>bold</b>\n")
        expect(tab.locator("#stderr")).to_have_text("oh\n")
        expect(tab.locator("#figures")).to_contain_text("exit code 0")
        expect(tab.locator("#figures")).to_contain_text("ms")
    assert problems == []


def test_the_index_page_says_why_nothing_could_be_run(
    tab: Page, python: Environment, this: Node
) -> None:
    Node.objects.filter(pk=this.pk).update(status=Node.Status.DRAINING)
    tab.goto("/")
    expect(tab.locator("#health-status")).to_have_text("degraded")
    tab.get_by_role("button", name="Run").click()
    expect(tab.locator("#problem")).to_contain_text("No worker node takes sessions")
    expect(tab.get_by_role("button", name="Run")).to_be_enabled()


def test_the_index_page_fits_a_narrow_screen(tab: Page, python: Environment) -> None:
    tab.set_viewport_size({"width": 320, "height": 640})
    tab.goto("/")
    expect(tab.locator("#environment")).to_have_value("python")
    assert no_sideways_scrolling(tab)


def test_swagger_is_rendered_from_our_own_files(tab: Page, site: str, problems: list[str]) -> None:
    asked = requests_of(tab)
    tab.goto("/docs")
    expect(tab.get_by_text("/api/v1/sessions/{session_id}/execute", exact=True)).to_be_visible()
    assert len(asked) > 3
    assert [address for address in asked if not address.startswith((site, "data:"))] == []
    assert problems == []


def test_redoc_is_rendered_from_our_own_files(tab: Page, site: str, problems: list[str]) -> None:
    arrived: list[str] = []
    tab.on("response", lambda response: arrived.append(response.url))
    tab.goto("/redoc")
    expect(tab.get_by_role("heading", name="Run code in a session")).to_be_visible()
    tab.wait_for_load_state("networkidle")
    local = (site, "data:", "blob:")
    assert [address for address in arrived if not address.startswith(local)] == []
    tab.fill("input[placeholder='Search...']", "session")  # searched by a worker
    expect(tab.locator("[data-role='search:results'] li").first).to_be_visible()
    assert problems == []


def requests_of(tab: Page) -> list[str]:
    asked: list[str] = []
    tab.on("request", lambda request: asked.append(request.url))
    return asked


# What pages may do: Chromium writes an error to the console for whatever a policy forbids, and
# `problems` has it.

PAYLOADS = (
    "<script>window.obeyed = 'script'</script>",
    "<img src=x onerror=\"window.obeyed = 'handler'\">",
    "</pre></textarea></title><svg onload=window.obeyed=1>",
    "<b x-data x-init=\"window.obeyed = 'alpine'\" hx-get=/api/v1/health hx-trigger=load>bold</b>",
    "'\"); window.obeyed = 1; //`${window.obeyed=1}`{{ 7*7 }}{% now 'Y' %}",
    '<a href="javascript:window.obeyed=1">link</a><base href=//evil.example/>',
)
EVERYTHING = "\n".join(PAYLOADS)


def pages_of_the_console(operator: Page) -> list[str]:
    """Those that the dashboard's sidebar leads to."""
    operator.goto("/admin/")
    links = operator.locator("#nav-sidebar-apps a")
    return [str(link.get_attribute("href")) for link in links.all()]


@pytest.mark.thorough
def test_no_page_does_what_its_policy_forbids(
    operator: Page, run: Execution, rust: Environment, problems: list[str]
) -> None:
    user = User.objects.get()
    own = [page(row) for row in (run, run.session, run.session.node, rust, user)]
    forms = ["/admin/auth/user/add/", "/admin/auth/group/add/", "/admin/password_change/"]
    forms += [f"/admin/auth/user/{user.pk}/password/", page(rust).replace("change", "history")]
    lists = pages_of_the_console(operator)
    deleting = page(rust).replace("change", "delete")
    for address in ["/", "/docs", "/redoc", *lists, *own, *forms, deleting]:
        answer = operator.goto(address)
        assert answer is not None and answer.ok, address
        assert "Content-Security-Policy".lower() in answer.headers, address
        operator.wait_for_load_state("networkidle") if address != "/" else None
    assert problems == []


def test_a_candidates_text_is_shown_and_never_obeyed(
    operator: Page, site: str, python: Environment, this: Node, problems: list[str]
) -> None:
    Environment.objects.filter(pk=python.pk).update(description=EVERYTHING[:1000])
    program = f"import sys\ntext = {EVERYTHING!r}\nprint(text)\nprint(text, file=sys.stderr)\n"
    with working():
        request = operator.request
        named = {"environment": "python", "metadata": {EVERYTHING: EVERYTHING}}
        opened = request.post("/api/v1/sessions", data=named)
        session_id = opened.json()["session_id"]
        for code in (program, EVERYTHING, f"raise ValueError({EVERYTHING!r})"):
            body = {"code": code, "args": list(PAYLOADS), "stdin": EVERYTHING}
            answer = request.post(f"/api/v1/sessions/{session_id}/execute", data=body)
            assert answer.ok, answer.text()
    rows = list(Execution.objects.all())
    assert len(rows) == 3
    assert EVERYTHING.encode() in b"".join(bytes(row.stdout) for row in rows)
    search = "/admin/sessions_app/session/?q=%3Cscript%3Ewindow.obeyed=1%3C/script%3E"
    addresses = [page(row) for row in (*rows, rows[0].session, python, this)]
    operator.goto("/")
    expect(operator.locator("#health-status")).to_have_text("healthy")
    assert operator.evaluate("window.obeyed") is None
    Node.objects.filter(pk=this.pk).update(engine_error=EVERYTHING)
    for address in ["/docs", *addresses, *pages_of_the_console(operator), search]:
        operator.goto(address)
        operator.wait_for_load_state("load")
        assert operator.evaluate("window.obeyed") is None, address
    assert problems == []


@pytest.mark.parametrize("address", ["/", "/docs", "/redoc", "/admin/"])
def test_a_script_that_got_into_a_page_would_not_run(operator: Page, address: str) -> None:
    operator.goto(address)
    operator.evaluate(
        """
        const script = document.createElement("script");
        script.textContent = "window.obeyed = 'inline'";
        document.body.append(script);
        const foreign = document.createElement("script");
        foreign.src = "data:text/javascript,window.obeyed='data'";
        document.body.append(foreign);
        const frame = document.createElement("iframe");
        frame.src = "javascript:parent.obeyed='frame'";
        document.body.append(frame);
        const image = document.createElement("div");
        image.innerHTML = "<img src='/none' onerror='window.obeyed = `handler`'>";
        document.body.append(image);
        """
    )
    operator.wait_for_timeout(500)
    assert operator.evaluate("window.obeyed") is None
    assert address == "/admin/" or not _evaluates(operator)


def _evaluates(tab: Page) -> bool:
    """Whether the page may make programs of texts. Asked by the page: a debugger always may."""
    tab.evaluate("setTimeout(() => { try { eval('window.evaluated = true') } catch {} })")
    tab.wait_for_timeout(100)
    return bool(tab.evaluate("window.evaluated"))


def test_what_is_sent_after_the_language_was_switched_is_of_that_language(
    tab: Page, rust: Environment, problems: list[str]
) -> None:
    """Even where the service is slow to say what the language is, and Run is pressed at once."""
    sent: list[dict[str, str]] = []

    def slow(route: Route) -> None:
        tab.wait_for_timeout(400)
        route.continue_()

    def keep(route: Route) -> None:
        sent.append(route.request.post_data_json)
        route.fulfill(status=503, json={"detail": "Not now.", "code": "no_capacity"})

    tab.goto("/")
    expect(tab.locator("#code")).to_have_value(re.compile("greeting"))
    tab.route("**/environments/rust", slow)
    tab.route("**/api/v1/execute", keep)
    tab.select_option("#environment", "rust")
    tab.locator("#code").press("Control+Enter")
    tab.click("#run")
    expect(tab.locator("#problem")).to_have_text("Not now.")
    assert [each["environment"] for each in sent] == ["rust"]
    assert "fn main()" in sent[0]["code"]


def test_each_language_of_the_index_page_keeps_what_was_written_for_it(
    tab: Page, environments: dict[str, Environment]
) -> None:
    tab.goto("/")
    code = tab.locator("#code")
    expect(code).to_have_value(re.compile("greeting"))
    code.fill("print('mine')")
    tab.select_option("#environment", "node")
    expect(code).to_have_value(re.compile(r"console\.log"))
    tab.select_option("#environment", "python")
    expect(code).to_have_value("print('mine')")


def test_a_promotion_is_asked_about_and_a_page_is_not_found(
    operator: Page, python: Environment, this: Node, problems: list[str]
) -> None:
    build = EnvironmentBuild.objects.create(environment=python, dockerfile="FROM debian\n")
    NodeBuild.objects.create(
        build=build, node=this.name, status="passed", image_id="sha256:1",
        finished_at=timezone.now(),
    )  # fmt: skip
    overview = reverse("admin:environments_app_environment_builds", args=[python.pk])
    operator.goto(reverse("admin:environments_app_build", args=[python.pk, build.pk]))
    operator.get_by_role("button", name="Promote").click()
    expect(operator.locator("h2.console-group")).to_contain_text(
        f"Promote python build {build.pk}?"
    )
    assert no_sideways_scrolling(operator)
    operator.get_by_role("link", name="Leave it as it is").click()
    assert not python.revisions.filter(cause__startswith="build").exists()
    operator.get_by_role("button", name="Promote").click()
    operator.get_by_role("button", name="Promote it").click()
    expect(operator).to_have_url(re.compile(overview))
    expect(operator.locator(".console-changes").first).to_contain_text(f"build {build.pk} promoted")
    assert problems == []
    operator.goto("/nothing")
    expect(operator.locator("h1")).to_have_text("Not found")
    assert [each for each in problems if "404" not in each] == []
