"""Django's settings, derived from the configuration that `env` reads."""

import os
import secrets
import sys
from pathlib import Path
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from psycopg.conninfo import conninfo_to_dict

from codeexec import __version__, bounds, env, private_database
from codeexec.admin_site import UNFOLD  # noqa: F401 -- a setting

try:
    CODE_EXECUTOR = env.load()
except env.ConfigurationError as error:
    # One readable message instead of a traceback: whoever edits the file needs no more.
    sys.exit(str(error))

BASE_DIR = env.BASE_DIR
DATA_DIR: Path = CODE_EXECUTOR["DATA_DIR"]


def _secret_key() -> str:
    """The configured key, or the one in DATA_DIR, made by whichever process comes first."""
    if CODE_EXECUTOR["SECRET_KEY"]:
        return str(CODE_EXECUTOR["SECRET_KEY"])
    path = DATA_DIR / "secret_key"
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
    url = CODE_EXECUTOR["DATABASE_URL"]
    if not url:
        url = private_database.database_url(DATA_DIR / "postgres")
    given = conninfo_to_dict(url)
    if not given.get("dbname"):
        raise ImproperlyConfigured("DATABASE_URL names no database: postgresql://host/<name>")
    known = {"dbname": "NAME", "user": "USER", "password": "PASSWORD", "host": "HOST"}
    known["port"] = "PORT"
    # PostgreSQL plans a statement that comes again only once: a sixth of a run's time in queries.
    prepared = {"server_side_binding": True, "prepare_threshold": 5}
    return {
        "ENGINE": "codeexec.database",
        **{known[key]: str(value) for key, value in given.items() if key in known},
        "OPTIONS": prepared | {key: value for key, value in given.items() if key not in known},
        "CONN_MAX_AGE": 600,
        "CONN_HEALTH_CHECKS": True,
    }


SECRET_KEY = _secret_key()
DEBUG: bool = CODE_EXECUTOR["API_DEBUG"]
ALLOWED_HOSTS: list[str] = CODE_EXECUTOR["ALLOWED_HOSTS"]
CSRF_TRUSTED_ORIGINS: list[str] = CODE_EXECUTOR["CSRF_TRUSTED_ORIGINS"]
# An admin that is reached by https only: its cookies need never travel in the clear.
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = bool(CSRF_TRUSTED_ORIGINS) and all(
    origin.startswith("https://") for origin in CSRF_TRUSTED_ORIGINS
)
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
SECURE_CONTENT_TYPE_NOSNIFF = True
X_FRAME_OPTIONS = "DENY"
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
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "django_q",
    "environments_app",
    "sessions_app",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
# Of asynchronous views, in place of MIDDLEWARE: coroutines only, see `codeexec.serving`.
ASYNC_MIDDLEWARE = ["codeexec.middleware.browser_safety"]
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
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator"},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]

LANGUAGE_CODE = "en-us"
TIME_ZONE = "UTC"
USE_TZ = True
STATIC_URL = "static/"
STATIC_ROOT = BASE_DIR / ".static"
STATICFILES_DIRS = [BASE_DIR / "static"]

REST_FRAMEWORK = {
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["codeexec.negotiation.JsonParser"],
    "DEFAULT_CONTENT_NEGOTIATION_CLASS": "codeexec.negotiation.AlwaysJson",
    "DEFAULT_AUTHENTICATION_CLASSES": [],
    "DEFAULT_PERMISSION_CLASSES": [],
    "UNAUTHENTICATED_USER": None,
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "EXCEPTION_HANDLER": "codeexec.errors.exception_handler",
}

# The queue. A task carries an id; whether it may run at all is decided by a conditional UPDATE on
# its row, so that a message that comes twice does nothing the second time. A message whose worker
# died comes again after `retry` seconds, and so, harmlessly, does that of a run that takes longer.
# `timeout` is for scheduled tasks; what `codeexec.queueing.enqueue` sends has none.
Q_CLUSTER = {
    "name": "shared",  # codeexec.queueing.SHARED_QUEUE: where schedules send their tasks
    "broker_class": "codeexec.broker.PostgresBroker",
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

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "line": {"format": "{asctime} {levelname} {name}: {message}", "style": "{"},
    },
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["console"], "level": CODE_EXECUTOR["LOG_LEVEL"]},
    "loggers": {
        "django.request": {"level": "ERROR"},
        "django-q": {"handlers": ["console"], "level": "WARNING", "propagate": False},
    },
}

SPECTACULAR_SETTINGS = {
    "TITLE": "Code Executor",
    "DESCRIPTION": "Runs a candidate's code in a hardened container while an interview is live.",
    "VERSION": __version__,
    "SERVE_INCLUDE_SCHEMA": False,
    "OAS_VERSION": "3.1.0",  # whose schemas are JSON Schema: names of properties have bounds too
    "POSTPROCESSING_HOOKS": [
        "drf_spectacular.hooks.postprocess_schema_enums",
        "sessions_app.api.schema.complete",
    ],
    "SCHEMA_PATH_PREFIX": "/api/v1",
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "REDOC_DIST": "SIDECAR",
    "COMPONENT_SPLIT_REQUEST": True,
    "ENUM_NAME_OVERRIDES": {
        "SessionStatus": "sessions_app.models.session.SessionStatus",
        "ExecutionStatus": "sessions_app.models.execution.ExecutionStatus",
        "Verdict": "sessions_app.models.execution.Verdict",
        "HealthStatus": ["healthy", "degraded", "unhealthy"],
    },
}
