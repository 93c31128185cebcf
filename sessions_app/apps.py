from django.apps import AppConfig


class SessionsAppConfig(AppConfig):
    name = "sessions_app"
    verbose_name = "Service"

    def ready(self) -> None:
        import codeexec.checks  # noqa: F401 -- registers them
        from codeexec.http.serving import companions
        from environments_app import runtimes
        from sessions_app.access.key_cache import key_cache, listen_for_changes
        from sessions_app.api.stream_places import stream_places
        from sessions_app.monitoring.process_report import keep_reporting
        from sessions_app.services.runtimes import names_of_all

        listen_for_changes()
        key_cache.on_change.append(stream_places.check_again)
        runtimes.sources.append(names_of_all)
        companions.append(keep_reporting)
