"""`manage.py check --deploy`: settings that are only for trying the service out."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any

from django.conf import settings
from django.core import checks
from django.core.checks import CheckMessage, Tags

_DOCKERS = IPv4Network("172.16.0.0/12")
_WIDE_PREFIX = 20
LEAST_KEY_CHARACTERS = 50
LEAST_KEY_DIFFERENT = 5
WELL_KNOWN_KEYS = ("django-insecure-", "not-used-after-this", "secret", "changeme", "change-me")


@checks.register(Tags.security, deploy=True)
def check_deployment(app_configs: Sequence[Any] | None, **_options: Any) -> list[CheckMessage]:
    configured = settings.CODE_EXECUTOR
    found = [
        (
            configured["API_DEBUG"],
            "API_DEBUG is on: answers to failures have tracebacks with settings and code.",
            "Set API_DEBUG=false.",
            "W001",
        ),
        (
            _is_weak(settings.SECRET_KEY),
            "SECRET_KEY is short or well known: with it anyone can sign in as an operator and have "
            "workers run any function.",
            "Leave SECRET_KEY empty to have one made, or set at least 50 random characters.",
            "W002",
        ),
        (
            "*" in settings.ALLOWED_HOSTS,
            "ALLOWED_HOSTS=*: the service answers to any host name, also to an attacker's.",
            "Set ALLOWED_HOSTS to the service's host names, with 127.0.0.1 for health checks.",
            "W003",
        ),
        (
            not settings.BEHIND_TLS,
            "The console isn't known to be reached by https: passwords and cookies may be sent "
            "unencrypted.",
            "Put the service behind a proxy that ends TLS, and set "
            "CSRF_TRUSTED_ORIGINS=https://<its name>. For use on one machine, ignore this.",
            "W004",
        ),
        (
            settings.BEHIND_TLS and not settings.TRUSTED_PROXIES,
            "The console is reached through a proxy that isn't in TRUSTED_PROXIES: all requests "
            "seem to come from the proxy, by http.",
            "Set TRUSTED_PROXIES to the proxy's address or network.",
            "W005",
        ),
        (
            any(network.endswith("/0") for network in settings.TRUSTED_PROXIES),
            "TRUSTED_PROXIES has every address: any client can pretend to be another.",
            "Set TRUSTED_PROXIES to the proxy's own address or network.",
            "W006",
        ),
        (
            any(map(_holds_sandboxes, settings.TRUSTED_PROXIES)),
            "TRUSTED_PROXIES has a whole Docker network: sandboxes with a network are in it, and "
            "can pretend to be other clients.",
            "Set TRUSTED_PROXIES to the proxy's own address; docs/configuration.md shows, under "
            "'Behind a proxy', how it keeps one in Compose.",
            "W008",
        ),
        (
            configured["API_AUTH"] == "open",
            "API_AUTH=open: everyone who reaches the API, including all users of this machine and "
            "of a proxy on it, can run code and read the code and output of others.",
            "Set API_AUTH=key, and make keys with `manage.py create_client`.",
            "W007",
        ),
    ]
    return [
        checks.Warning(text, hint=hint, id=f"code_executor.{number}")
        for applies, text, hint, number in found
        if applies
    ]


def _holds_sandboxes(proxies: str) -> bool:
    """Whether these addresses are as many of Docker's as a whole network has."""
    network = ip_network(proxies)
    if isinstance(network, IPv6Network) or not 0 < network.prefixlen <= _WIDE_PREFIX:
        return False
    return network.overlaps(_DOCKERS)


def _is_weak(key: str) -> bool:
    short = len(key) < LEAST_KEY_CHARACTERS or len(set(key)) < LEAST_KEY_DIFFERENT
    return short or key.lower().startswith(WELL_KNOWN_KEYS)
