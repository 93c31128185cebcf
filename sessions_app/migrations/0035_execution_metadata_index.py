import django.contrib.postgres.indexes
from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models


class Migration(migrations.Migration):
    # Programs are run while it reads a long history.
    atomic = False
    dependencies = [
        ("sessions_app", "0034_execution_metadata"),
    ]

    operations = [
        AddIndexConcurrently(
            model_name="execution",
            index=django.contrib.postgres.indexes.GinIndex(
                condition=models.Q(("metadata__isnull", False)),
                fastupdate=False,
                fields=["metadata"],
                name="execution_metadata",
                opclasses=["jsonb_path_ops"],
            ),
        ),
    ]
