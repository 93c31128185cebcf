"""The cast of all tests: one node called `this`, the environments that are shipped, and a driver
without containers.

    this        the node that tests run on, registered and alive
    python      an environment; so are node_js and rust
    driver      FakeDriver, which every task of the test uses
    ready       a session of `python` that waits for executions
    running     its first execution, which has begun
    configure   settings of the configuration, for one test
    work        does what the queue holds, in the calling thread
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing
from copy import deepcopy
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.db import connection
from django.db.models import Model
from django.test import TransactionTestCase, override_settings
from django.utils import timezone
from hypothesis import settings as hypothesis_settings

import codeexec.taskqueue.broker
from codeexec.db.connection_pool import ConnectionPool
from codeexec.http.serving import Application, disconnect_receivers
from codeexec.taskqueue.broker import PostgresBroker
from codeexec.taskqueue.enqueue import SHARED_QUEUE
from environments_app.definitions import read_definitions
from environments_app.models import Environment, EnvironmentRevision
from environments_app.seeding import seed
from sessions_app.models import Execution, Node, Session
from sessions_app.services.executions import RunRequest, submit_execution
from tests.support.api_client import Api, server
from tests.support.cast import session_in
from tests.support.databases import insert_rows, migrated, rows_of
from tests.support.emptying import delete_rows
from tests.support.fake_driver import FakeDriver, use_driver
from tests.support.parallel import HeavyModulesWhole, heavy_first, its_turn
from tests.support.patience import LONG
from tests.support.this_run import FIRST, LABELS, interrupted_by_signals, reaped
from tests.support.working import Delivery, take_up, work_off

# No example fails because the machine was busy.
hypothesis_settings.register_profile("any machine", hypothesis_settings(), deadline=None)
hypothesis_settings.load_profile("any machine")

NODE = "this"

LONGER_THAN_A_TEST = timedelta(hours=1)
"""A test's node has no worker that would renew its heartbeat, so one must last."""

FOLLOWING = pytest.StashKey[Any]()
"""The test that this process runs after a test, or None."""

Configure = Callable[..., None]
Work = Callable[[], list[Delivery]]


def pytest_configure(config: pytest.Config) -> None:
    django_settings.CODE_EXECUTOR["CONTAINER_LABELS"] = LABELS
    os.environ["CONTAINER_LABELS"] = ",".join(f"{name}={value}" for name, value in LABELS.items())
    if FIRST and not config.option.collectonly:
        interrupted_by_signals()
        run = ExitStack()
        run.enter_context(reaped())
        config.add_cleanup(run.close)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> HeavyModulesWhole:
    return HeavyModulesWhole(config, log)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=heavy_first)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(
    item: pytest.Item, nextitem: pytest.Item | None
) -> Generator[None, object, object]:
    item.stash[FOLLOWING] = nextitem
    with its_turn(alone=item.get_closest_marker("alone") is not None):
        return (yield)


@pytest.fixture
def configure(settings: Any) -> Configure:
    """`configure(SESSION_TTL=5)`: the setting for this test."""

    def change(**values: Any) -> None:
        unknown = values.keys() - settings.CODE_EXECUTOR.keys()
        assert not unknown, f"no such setting: {unknown}"
        settings.CODE_EXECUTOR = {**settings.CODE_EXECUTOR, **values}

    return change


@pytest.fixture(scope="session")
def django_db_modify_db_settings(django_db_modify_db_settings: None) -> None:
    """Of several processes one migrates, and the others copy what it made."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        connection.settings_dict["TEST"]["TEMPLATE"] = migrated()


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup: None) -> Iterator[None]:
    """The tests' database, which is emptied as `tests.support.emptying` does it. Its connection
    stays open from test to test: the first statements of a new one take many milliseconds.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TransactionTestCase, "_fixture_teardown", delete_rows)
        patch.setattr(TransactionTestCase, "_should_reload_connections", lambda _case: False)
        yield


@pytest.fixture(scope="session", autouse=True)
def passwords_of_little_work() -> Iterator[None]:
    """A password takes a processor half a second otherwise, when it is set and when it is given."""
    with override_settings(PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"]):
        yield


@pytest.fixture(autouse=True)
def no_key_is_needed(configure: Configure) -> None:
    """As in the shipped configuration, whatever this machine's is; tests of keys change it."""
    configure(API_AUTH="open", API_HOST="127.0.0.1")


@pytest.fixture(autouse=True)
def static_files_as_they_are(settings: Any) -> None:
    """Pages are tested without having collected their static files first."""
    settings.WHITENOISE_AUTOREFRESH = True
    settings.WHITENOISE_USE_FINDERS = True


@pytest.fixture(scope="session")
def definitions() -> Any:
    """What the shipped environments.yaml says."""
    return read_definitions(django_settings.BASE_DIR / "config" / "environments.yaml")


@pytest.fixture
def driver(definitions: Any) -> Iterator[FakeDriver]:
    """Has the images of all shipped environments."""
    fake = make_driver(definitions)
    with use_driver(fake):
        yield fake
    fake.close()


def make_driver(definitions: Any) -> FakeDriver:
    prefix = django_settings.CODE_EXECUTOR["DOCKER_IMAGE_PREFIX"]
    return FakeDriver(
        images=[f"{prefix}-{each.columns()['image']}" for each in definitions.environments]
    )


@pytest.fixture
def environments(
    db: None, configure: Configure, definitions: Any, driver: FakeDriver
) -> dict[str, Environment]:
    """The shipped environments, each built on `this`, and nothing started in advance."""
    configure(NODE_NAME=NODE)
    return make_environments(definitions, driver)


def make_environments(definitions: Any, driver: FakeDriver) -> dict[str, Environment]:
    if SEEDED:
        insert_rows(ROWS)
    else:
        seed(definitions)
        Environment.objects.update(warm_pool_size=0)
        SEEDED.extend(Environment.objects.all())
        EnvironmentRevision.objects.bulk_create(_built(each, driver) for each in SEEDED)
        ROWS.update({model: rows_of(model) for model in (Environment, EnvironmentRevision)})
    return {each.name: each for each in deepcopy(SEEDED)}


SEEDED: list[Environment] = []
ROWS: dict[type[Model], str] = {}
"""What the first test has made: a copy takes one statement, seeding takes two dozen."""


def _built(environment: Environment, driver: FakeDriver) -> EnvironmentRevision:
    """What `record_image` writes."""
    image = driver.inspect_image(environment.image_reference)
    return EnvironmentRevision(
        environment=environment,
        number=1,
        node=NODE,
        image_id=image.image_id,
        size_bytes=image.size_bytes,
        definition=environment.definition(),
    )


@pytest.fixture
def python(environments: dict[str, Environment]) -> Environment:
    return environments["python"]


@pytest.fixture
def rust(environments: dict[str, Environment]) -> Environment:
    return environments["rust"]


@pytest.fixture
def this(db: None, configure: Configure) -> Node:
    configure(NODE_NAME=NODE)
    return make_node()


def make_node() -> Node:
    """What `register_node` writes, in one statement, but that its heartbeat is ahead."""
    return Node.objects.create(
        name=NODE,
        capacity=django_settings.CODE_EXECUTOR["NODE_CAPACITY"],
        concurrency=django_settings.CODE_EXECUTOR["WORKER_CONCURRENCY"],
        heartbeat_at=timezone.now() + LONGER_THAN_A_TEST,
    )


@pytest.fixture
def other(this: Node) -> Node:
    """Another node, alive as well, whose workers do nothing."""
    return Node.objects.create(name="other", capacity=50, concurrency=4)


@pytest.fixture
def ready(python: Environment, this: Node) -> Session:
    return session_in(Session.Status.READY, python, this)


@pytest.fixture
def running(ready: Session) -> Execution:
    """The first execution of `ready`, claimed by an executor."""
    execution = submit_execution(ready.pk, RunRequest(code="print(1)"))
    assert take_up(ready.pk) is not None
    execution.refresh_from_db()
    return execution


@pytest.fixture
def work(transactional_db: None, this: Node, monkeypatch: pytest.MonkeyPatch) -> Iterator[Work]:
    """Takes messages through the real broker, and calls their tasks, until none is left."""
    monkeypatch.setattr(codeexec.taskqueue.broker, "WAIT_SECONDS", 0)
    with closing(PostgresBroker(SHARED_QUEUE)) as broker, closing(ConnectionPool(1)) as pool:
        yield partial(work_off, broker, pool)


@pytest.fixture(scope="session")
def application(tmp_path_factory: pytest.TempPathFactory) -> Application:
    """The service's ASGI application. Static files need not have been collected for tests."""
    with override_settings(STATIC_ROOT=tmp_path_factory.mktemp("static")):
        return Application()


@pytest.fixture
def api(
    request: pytest.FixtureRequest,
    transactional_db: None,
    application: Application,
    this: Node,
    environments: dict[str, Environment],
    configure: Configure,
) -> Iterator[Api]:
    """The HTTP API, with the cast there. It needs no key, unless a test configures that."""
    configure(REQUEST_TIMEOUT=LONG)
    disconnect_receivers()  # another test may have brought them back
    with server.used(application) as client:
        yield client
    following = request.node.stash[FOLLOWING]
    if following is None or "api" not in following.fixturenames:
        server.stop()
