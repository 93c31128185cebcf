from django.apps import AppConfig


class EnvironmentsConfig(AppConfig):
    name = "environments_app"
    verbose_name = "Environments"
