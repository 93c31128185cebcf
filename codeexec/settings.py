"""Django's settings, derived from the configuration that `env` reads."""

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
"""What can't be, a line each. Only the doctor goes on all the same, and tells of the rest, too."""
_EXAMINED = sys.argv[1:2] == ["check_stack"]


def _refuse(problem: str) -> None:
    """One readable message instead of a traceback: whoever edits the file needs no more."""
    if not _EXAMINED:
        sys.exit(problem)
    CONFIGURATION_PROBLEMS.append(problem)


if CONFIGURATION_PROBLEMS and not _EXAMINED:
    sys.exit("\n".join(["The configuration can't be used:", *CONFIGURATION_PROBLEMS]))


_secret_names = {setting.name for setting in configuration.SETTINGS if setting.secret}
# Without the secrets: Django's pages about failures show settings, and hide those that it knows.
CODE_EXECUTOR = {name: value for name, value in _configured.items() if name not in _secret_names}
BASE_DIR = configuration.BASE_DIR
DATA_DIR: Path = CODE_EXECUTOR["DATA_DIR"]


def _secret_key() -> str:
    """The configured key, or the one in DATA_DIR, made by whichever process comes first."""
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
            os.link(candidate, path)  # fails where another process was faster: its key counts
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
    # PostgreSQL plans a statement that comes again only once: a sixth of a run's time in queries.
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
# An admin that is reached by https only: what is for browsers need never travel in the clear.
BEHIND_TLS = bool(CSRF_TRUSTED_ORIGINS) and all(
    origin.startswith("https://") for origin in CSRF_TRUSTED_ORIGINS
)
TRUSTED_PROXIES: list[str] = CODE_EXECUTOR["TRUSTED_PROXIES"]
# Whether a request came by https is what the server says, which believes TRUSTED_PROXIES alone:
# with a header that Django itself believes, anybody could say so.
SECURE_PROXY_SSL_HEADER = None
# Only where the proxy's word is heard: a redirect of what has come by https would never end.
SECURE_SSL_REDIRECT = BEHIND_TLS and bool(TRUSTED_PROXIES)
# A platform in the proxy's network, and health checks, speak to the API directly.
SECURE_REDIRECT_EXEMPT = ["^api/"]
SECURE_HSTS_SECONDS: int = CODE_EXECUTOR["HSTS_SECONDS"] if BEHIND_TLS else 0
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
SECURE_CROSS_ORIGIN_OPENER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = BEHIND_TLS
SESSION_COOKIE_HTTPONLY = CSRF_COOKIE_HTTPONLY = True
# Links from elsewhere find an operator logged in; forms elsewhere can't be sent in his name.
SESSION_COOKIE_SAMESITE = CSRF_COOKIE_SAMESITE = "Lax"
SESSION_COOKIE_AGE = int(timedelta(hours=12).total_seconds())
# Browsers take such a name from this host by https alone: neighbours in its domain can't set it.
_COOKIE_PREFIX = "__Host-" if BEHIND_TLS else ""
SESSION_COOKIE_NAME = f"{_COOKIE_PREFIX}sessionid"
CSRF_COOKIE_NAME = f"{_COOKIE_PREFIX}csrftoken"
SILENCED_SYSTEM_CHECKS = [
    "security.W005",  # HSTS for subdomains: those are not the service's to decide about
    "security.W021",  # HSTS preloading: neither
]
# Pages that may call the API from a browser. Keys and tokens are sent by their scripts: a browser's
# own credentials, such as the console's cookies, never are.
CORS_ALLOW_ALL_ORIGINS = "*" in CODE_EXECUTOR["CORS_ORIGINS"]
CORS_ALLOWED_ORIGINS = [origin for origin in CODE_EXECUTOR["CORS_ORIGINS"] if origin != "*"]
CORS_URLS_REGEX = r"^/api/"
CORS_ALLOW_HEADERS = [
    "authorization",
    "content-type",
    "last-event-id",
    "x-request-id",
]
CORS_ALLOW_METHODS = ["DELETE", "GET", "OPTIONS", "PATCH", "POST"]
CORS_EXPOSE_HEADERS = [
    "Content-Disposition",
    "RateLimit-Limit",
    "RateLimit-Policy",
    "RateLimit-Remaining",
    "RateLimit-Reset",
    "Retry-After",
    "Server-Timing",
    "X-Request-ID",
    "X-Workspace-Truncated",
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
# Of asynchronous views, in place of MIDDLEWARE: coroutines only, see `codeexec.http.serving`.
ASYNC_MIDDLEWARE = [
    "codeexec.http.middleware.browser_safety",
    "codeexec.http.middleware.local_only_async",
    "corsheaders.middleware.CorsMiddleware",
]
# Whether a request's body is to be read at all, asked when its head is there.
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
    "DEFAULT_PERMISSION_CLASSES": ["codeexec.http.permissions.DenyAll"],
    "UNAUTHENTICATED_USER": None,
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "EXCEPTION_HANDLER": "codeexec.http.error_answers.exception_handler",
}

# The queue. A task carries an id; whether it may run at all is decided by a conditional UPDATE on
# its row, so that a message that comes twice does nothing the second time. A message whose worker
# died comes again after `retry` seconds, and so, harmlessly, does that of a run that takes longer.
# `timeout` is for scheduled tasks; what `codeexec.taskqueue.enqueue.enqueue` sends has none.
Q_CLUSTER = {
    "name": "shared",  # codeexec.taskqueue.enqueue.SHARED_QUEUE: where schedules send their tasks
    "broker_class": "codeexec.taskqueue.broker.PostgresBroker",
    "workers": 4,  # tasks wait for the Docker Engine; programs are run by the executor
    "retry": 120,
    "timeout": 120,
    "queue_limit": 1,  # the least that is taken ahead of the workers
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
    "OAS_VERSION": "3.1.0",  # whose schemas are JSON Schema: names of properties have bounds too
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
