"""The index of the pools' hit rates, built while sessions are opened and closed."""

from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models


class Migration(migrations.Migration):
    atomic = False

    dependencies = [
        ("environments_app", "0001_initial"),
        ("sessions_app", "0003_warm_pool"),
    ]

    operations = [
        AddIndexConcurrently(
            model_name="session",
            index=models.Index(
                fields=["environment", "-created_at"], include=("warm",), name="session_pool_hits"
            ),
        ),
    ]
