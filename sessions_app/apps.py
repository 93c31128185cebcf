from django.apps import AppConfig


class SessionsAppConfig(AppConfig):
    name = "sessions_app"
    verbose_name = "Service"

    def ready(self) -> None:
        import codeexec.checks  # noqa: F401 -- registers them
        from codeexec.serving import companions
        from sessions_app.key_ring import listen_for_changes
        from sessions_app.telling import keep_telling

        listen_for_changes()
        companions.append(keep_telling)
