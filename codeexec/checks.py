"""`manage.py check --deploy`: what of the configuration is for trying the service out only."""

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
            "API_DEBUG is on: failures are answered with tracebacks, settings and code in them.",
            "Set API_DEBUG=false.",
            "W001",
        ),
        (
            _is_weak(settings.SECRET_KEY),
            "SECRET_KEY is short or well known: with it anybody signs in as an operator, and lets "
            "workers run any function.",
            "Leave SECRET_KEY empty, which makes one, or set at least 50 random characters.",
            "W002",
        ),
        (
            "*" in settings.ALLOWED_HOSTS,
            "ALLOWED_HOSTS=*: the service answers under any name, that of an attacker's page too.",
            "Set ALLOWED_HOSTS to the names by which it is reached, 127.0.0.1 for health checks.",
            "W003",
        ),
        (
            not settings.BEHIND_TLS,
            "Nothing says that the admin is reached by https: passwords and cookies may travel "
            "in the clear.",
            "Put the service behind a proxy that ends TLS, and set "
            "CSRF_TRUSTED_ORIGINS=https://<its name>. On one machine alone this can stay.",
            "W004",
        ),
        (
            settings.BEHIND_TLS and not settings.TRUSTED_PROXIES,
            "The admin is reached through a proxy that is not among TRUSTED_PROXIES: all requests "
            "seem to come from it, by http.",
            "Set TRUSTED_PROXIES to the proxy's address or network.",
            "W005",
        ),
        (
            any(network.endswith("/0") for network in settings.TRUSTED_PROXIES),
            "TRUSTED_PROXIES holds every address: any client can say that it is another.",
            "Set TRUSTED_PROXIES to the proxy's own address or network.",
            "W006",
        ),
        (
            any(map(_holds_sandboxes, settings.TRUSTED_PROXIES)),
            "TRUSTED_PROXIES holds a whole network of Docker's: sandboxes with a network are in "
            "it, and can say that they are others.",
            "Set TRUSTED_PROXIES to the proxy's own address; docs/configuration.md shows, under "
            "'Behind a proxy', how it keeps one in Compose.",
            "W008",
        ),
        (
            configured["API_AUTH"] == "open",
            "API_AUTH=open: whoever reaches the API, all users of this machine and of a proxy on "
            "it included, runs code and reads what others ran.",
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
    """Whether these are as many addresses of Docker's as it gives a whole network."""
    network = ip_network(proxies)
    if isinstance(network, IPv6Network) or not 0 < network.prefixlen <= _WIDE_PREFIX:
        return False
    return network.overlaps(_DOCKERS)


def _is_weak(key: str) -> bool:
    short = len(key) < LEAST_KEY_CHARACTERS or len(set(key)) < LEAST_KEY_DIFFERENT
    return short or key.lower().startswith(WELL_KNOWN_KEYS)
