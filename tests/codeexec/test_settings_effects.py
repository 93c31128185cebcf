"""Settings of the configuration whose effect is in sessions, where no other test shows it.

SESSION_TTL, EXECUTION_LEASE, NODE_CAPACITY, EXECUTION_TIMEOUT, TMPFS_SIZE, OUTPUT_LIMIT and
REQUEST_TIMEOUT are shown by the tests of what they belong to.
"""

from __future__ import annotations

import pytest

from environments_app.models import Environment
from sessions_app.models import Node
from sessions_app.node.registration import register_node, this_node, worker_name
from sessions_app.node.sandboxes import fill_pools
from sessions_app.services.sessions import open_session
from tests.conftest import Configure, Work
from tests.support.fake_driver import FakeDriver
from tests.support.this_run import LABELS

pytestmark = pytest.mark.django_db(transaction=True)
MIB = 1024 * 1024


def test_sandbox_limits_are_the_settings(
    python: Environment, this: Node, work: Work, driver: FakeDriver, configure: Configure
) -> None:
    configure(
        CONTAINER_MEMORY_LIMIT=100 * MIB,
        CONTAINER_CPU_LIMIT=0.25,
        CONTAINER_PIDS_LIMIT=17,
        TMPFS_SIZE=9 * MIB,
    )
    open_session()
    work()
    limits = driver.started[0].limits
    assert (limits.memory_bytes, limits.cpus) == (100 * MIB, 0.25)
    assert (limits.pids, limits.tmpfs_bytes) == (17, 9 * MIB)


def test_sandbox_hardening_is_the_settings(
    python: Environment, this: Node, work: Work, driver: FakeDriver, configure: Configure
) -> None:
    open_session()
    work()
    configure(NETWORK_DISABLED=False, NO_NEW_PRIVILEGES=False, CONTAINER_LABELS={"team": "a"})
    open_session()
    work()
    closed, opened = driver.started
    assert (closed.network, closed.no_new_privileges, closed.labels) == (False, True, LABELS)
    assert (opened.network, opened.no_new_privileges) == (True, False)
    assert opened.labels == {"team": "a"}


def test_session_ttl_bounds_a_warm_sandboxs_life(
    python: Environment, this: Node, work: Work, driver: FakeDriver, configure: Configure
) -> None:
    configure(SESSION_TTL=50)
    Environment.objects.filter(pk=python.pk).update(warm_pool_size=1)
    fill_pools(this)
    work()
    assert driver.started[0].max_idle_seconds == 3600 + 50 + 600


def test_node_name_is_who_does_the_work(db: None, configure: Configure) -> None:
    configure(NODE_NAME="n7", WORKER_CONCURRENCY=3)
    register_node()
    assert (this_node().name, this_node().concurrency) == ("n7", 3)
    assert worker_name().startswith("n7/")


def test_docker_image_prefix_is_in_every_images_name(
    python: Environment, configure: Configure
) -> None:
    configure(DOCKER_IMAGE_PREFIX="acme/run")
    assert python.image_reference == "acme/run-python"
