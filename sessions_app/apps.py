from django.apps import AppConfig


class SessionsAppConfig(AppConfig):
    name = "sessions_app"
    verbose_name = "Sessions"

    def ready(self) -> None:
        import codeexec.checks  # noqa: F401 -- registers them
        from sessions_app.key_ring import listen_for_changes

        listen_for_changes()
