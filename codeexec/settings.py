"""Django's settings, made from the configuration."""

import os
import secrets
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

from psycopg.conninfo import conninfo_to_dict

from codeexec import __version__, bounds, configuration, logs
from codeexec.admin_site import UNFOLD  # noqa: F401 -- a setting
from codeexec.db import private_database

_configured, CONFIGURATION_PROBLEMS = configuration.load_what_can_be()
"""One line for each wrong setting. Only `check_stack` continues then, and reports the rest too."""
_EXAMINED = sys.argv[1:2] == ["check_stack"]


def _refuse(problem: str) -> None:
    """Ends with a readable message instead of a traceback."""
    if not _EXAMINED:
        sys.exit(problem)
    CONFIGURATION_PROBLEMS.append(problem)


if CONFIGURATION_PROBLEMS and not _EXAMINED:
    sys.exit("\n".join(["The configuration can't be used:", *CONFIGURATION_PROBLEMS]))


_secret_names = {setting.name for setting in configuration.SETTINGS if setting.secret}
# Without secrets: Django's pages about failures show settings, and hide only those that Django
# knows.
CODE_EXECUTOR = {name: value for name, value in _configured.items() if name not in _secret_names}
BASE_DIR = configuration.BASE_DIR
DATA_DIR: Path = CODE_EXECUTOR["DATA_DIR"]


def _secret_key() -> str:
    """The configured key, or the one in DATA_DIR, which the first process creates."""
    if _configured["SECRET_KEY"]:
        return str(_configured["SECRET_KEY"])
    try:
        return _kept_key(DATA_DIR / "secret_key")
    except OSError as error:
        _refuse(f"DATA_DIR: the secret key can't be kept in {DATA_DIR}: {error.strerror}")
    return secrets.token_urlsafe(50)


def _kept_key(path: Path) -> str:
    if not path.exists():
        DATA_DIR.mkdir(parents=True, exist_ok=True)
        candidate = DATA_DIR / f"secret_key.{os.getpid()}"
        candidate.touch(mode=0o600)
        candidate.write_text(secrets.token_urlsafe(50))
        try:
            os.link(candidate, path)  # fails if another process was faster: then its key is used
        except FileExistsError:
            pass
        finally:
            candidate.unlink()
    return path.read_text().strip()


def _database() -> dict[str, Any]:
    url = _configured["DATABASE_URL"]
    if not url:
        url = private_database.database_url(DATA_DIR / "postgres")
    given = conninfo_to_dict(url)
    if not given.get("dbname"):
        _refuse("DATABASE_URL names no database: postgresql://host/<name>")
    if password := _configured["DATABASE_PASSWORD"]:
        if given.get("password"):
            _refuse("DATABASE_URL has a password, and DATABASE_PASSWORD is given: one can be.")
        given["password"] = password
    known = {"dbname": "NAME", "user": "USER", "password": "PASSWORD", "host": "HOST"}
    known["port"] = "PORT"
    # PostgreSQL plans a repeated statement only once, which saves a sixth of a run's query time.
    prepared = {"server_side_binding": True, "prepare_threshold": 5}
    return {
        "ENGINE": "codeexec.db.django_backend",
        **{known[key]: str(value) for key, value in given.items() if key in known},
        "OPTIONS": prepared | {key: value for key, value in given.items() if key not in known},
        "CONN_MAX_AGE": 600,
        "CONN_HEALTH_CHECKS": True,
    }


SECRET_KEY = _secret_key()
DEBUG: bool = CODE_EXECUTOR["API_DEBUG"]
ALLOWED_HOSTS: list[str] = CODE_EXECUTOR["ALLOWED_HOSTS"]
CSRF_TRUSTED_ORIGINS: list[str] = CODE_EXECUTOR["CSRF_TRUSTED_ORIGINS"]
# If the console is reached only by https, cookies and pages need never be sent unencrypted.
BEHIND_TLS = bool(CSRF_TRUSTED_ORIGINS) and all(
    origin.startswith("https://") for origin in CSRF_TRUSTED_ORIGINS
)
TRUSTED_PROXIES: list[str] = CODE_EXECUTOR["TRUSTED_PROXIES"]
# The server knows whether a request came by https, because it trusts only TRUSTED_PROXIES. A header
# that Django itself trusts could be sent by anyone.
SECURE_PROXY_SSL_HEADER = None
# Only if the proxy is trusted: otherwise requests that came by https would be redirected for ever.
SECURE_SSL_REDIRECT = BEHIND_TLS and bool(TRUSTED_PROXIES)
# A platform in the proxy's network, and health checks, call the API directly.
SECURE_REDIRECT_EXEMPT = ["^api/"]
SECURE_HSTS_SECONDS: int = CODE_EXECUTOR["HSTS_SECONDS"] if BEHIND_TLS else 0
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
SECURE_CROSS_ORIGIN_OPENER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = BEHIND_TLS
SESSION_COOKIE_HTTPONLY = CSRF_COOKIE_HTTPONLY = True
# Operators stay logged in when they follow links from other sites, but other sites can't post forms
# as them.
SESSION_COOKIE_SAMESITE = CSRF_COOKIE_SAMESITE = "Lax"
SESSION_COOKIE_AGE = int(timedelta(hours=12).total_seconds())
# Browsers accept cookies with this prefix only from this host and by https, not from its domain.
_COOKIE_PREFIX = "__Host-" if BEHIND_TLS else ""
SESSION_COOKIE_NAME = f"{_COOKIE_PREFIX}sessionid"
CSRF_COOKIE_NAME = f"{_COOKIE_PREFIX}csrftoken"
SILENCED_SYSTEM_CHECKS = [
    "security.W005",  # HSTS for subdomains: the service doesn't decide about those
    "security.W021",  # HSTS preloading: the same
]
# Pages that may call the API from a browser. Keys and tokens are sent by their scripts: a browser's
# own credentials, such as the console's cookies, never are.
CORS_ALLOW_ALL_ORIGINS = "*" in CODE_EXECUTOR["CORS_ORIGINS"]
CORS_ALLOWED_ORIGINS = [origin for origin in CODE_EXECUTOR["CORS_ORIGINS"] if origin != "*"]
CORS_URLS_REGEX = r"^/api/"
CORS_ALLOW_HEADERS = [
    *("authorization", "content-type", "idempotency-key", "last-event-id", "x-request-id"),
]
CORS_ALLOW_METHODS = ["DELETE", "GET", "OPTIONS", "PATCH", "POST"]
CORS_EXPOSE_HEADERS = [
    *("RateLimit-Limit", "RateLimit-Policy", "RateLimit-Remaining", "RateLimit-Reset"),
    *("Content-Disposition", "Location", "Retry-After", "Server-Timing"),
    *("X-Request-ID", "X-Workspace-Truncated"),
]
CORS_ALLOW_CREDENTIALS = False
CORS_PREFLIGHT_MAX_AGE = 3600
DATA_UPLOAD_MAX_MEMORY_SIZE: int = CODE_EXECUTOR["MAX_REQUEST_SIZE"]
FILE_UPLOAD_MAX_MEMORY_SIZE = bounds.BODY_BYTES_IN_MEMORY

INSTALLED_APPS = [
    "unfold",
    "unfold.contrib.filters",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "whitenoise.runserver_nostatic",
    "django.contrib.staticfiles",
    "corsheaders",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "django_q",
    "codeexec.audit",
    "environments_app",
    "sessions_app",
]
MIDDLEWARE = [
    "codeexec.http.middleware.page_policies",
    "codeexec.http.middleware.local_only",
    "corsheaders.middleware.CorsMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "sessions_app.access.console_login.refused_logins",
]
# For asynchronous views, in place of MIDDLEWARE: only coroutines, see `codeexec.http.serving`.
ASYNC_MIDDLEWARE = [
    "codeexec.http.middleware.browser_safety",
    "codeexec.http.middleware.local_only_async",
    "corsheaders.middleware.CorsMiddleware",
]
# Decides whether a request's body is read at all, when its head has arrived.
ADMISSION = "sessions_app.api.authorization.admit"
ROOT_URLCONF = "codeexec.urls"
ASGI_APPLICATION = "codeexec.asgi.application"
APPEND_SLASH = True
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]

DATABASES = {"default": _database()}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
AUTHENTICATION_BACKENDS = ["sessions_app.access.console_login.ThrottledBackend"]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {
        "NAME": "django.contrib.auth.password_validation.MinimumLengthValidator",
        "OPTIONS": {"min_length": 12},
    },
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]

LANGUAGE_CODE = "en-us"
TIME_ZONE = "UTC"
USE_TZ = True
LOGIN_REDIRECT_URL = "admin:index"
STATIC_URL = "static/"
STATIC_ROOT = BASE_DIR / ".static"
STATICFILES_DIRS = [BASE_DIR / "static"]

REST_FRAMEWORK = {
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["codeexec.http.negotiation.JsonParser"],
    "DEFAULT_CONTENT_NEGOTIATION_CLASS": "codeexec.http.negotiation.AlwaysJson",
    "DEFAULT_AUTHENTICATION_CLASSES": [],
    "DEFAULT_PERMISSION_CLASSES": ["codeexec.http.deny_all.DenyAll"],
    "UNAUTHENTICATED_USER": None,
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "EXCEPTION_HANDLER": "codeexec.http.error_answers.exception_handler",
}

# The queue. A task has an id, and a conditional UPDATE on its row decides whether it may run: so a
# message that is delivered twice does nothing the second time. The message of a dead worker is
# delivered again after `retry` seconds, and so, without harm, is that of a task that takes longer.
# `timeout` is for scheduled tasks; tasks of `codeexec.taskqueue.enqueue.enqueue` have none.
Q_CLUSTER = {
    "name": "shared",  # codeexec.taskqueue.enqueue.SHARED_QUEUE, for scheduled tasks
    "broker_class": "codeexec.taskqueue.broker.PostgresBroker",
    "workers": 4,  # tasks mostly wait for the Docker Engine; the executor runs programs
    "retry": 120,
    "timeout": 120,
    "queue_limit": 1,  # the smallest number taken ahead of the workers
    "save_limit": -1,
    "max_attempts": 3,
    "catch_up": False,
    "recycle": 10_000,
    "guard_cycle": 0.5,
    "log_level": "WARNING",
    "ALT_CLUSTERS": {},
}

LOGGING = logs.configuration(
    log_format=CODE_EXECUTOR["LOG_FORMAT"],
    level=CODE_EXECUTOR["LOG_LEVEL"],
    node=CODE_EXECUTOR["NODE_NAME"],
)

SPECTACULAR_SETTINGS = {
    "TITLE": "Code Executor",
    "DESCRIPTION": "Runs a candidate's code in a hardened container while an interview is live.",
    "VERSION": __version__,
    "SERVE_INCLUDE_SCHEMA": False,
    "OAS_VERSION": "3.1.0",  # its schemas are JSON Schema, which can limit property names
    "POSTPROCESSING_HOOKS": [
        "drf_spectacular.hooks.postprocess_schema_enums",
        "sessions_app.api.schema.describe_access",
        "sessions_app.api.schema.complete",
    ],
    "SCHEMA_PATH_PREFIX": "/api/v1",
    "PATH_CONVERTER_OVERRIDES": {"id": {"type": "string", "format": "uuid"}},
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "REDOC_DIST": "SIDECAR",
    "COMPONENT_SPLIT_REQUEST": True,
    "ENUM_NAME_OVERRIDES": {
        "SessionStatus": "sessions_app.models.session.SessionStatus",
        "ExecutionStatus": "sessions_app.models.execution.ExecutionStatus",
        "Verdict": "sessions_app.models.execution.Verdict",
        "Role": "sessions_app.callers.Role",
        "HealthStatus": ["healthy", "degraded", "unhealthy"],
    },
}
