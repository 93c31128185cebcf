from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("sessions_app", "0033_compile_reused"),
    ]

    operations = [
        migrations.AddField(
            model_name="execution",
            name="metadata",
            field=models.JSONField(
                help_text="Whatever its client wants to find it by. Null: nothing was given.",
                null=True,
            ),
        ),
    ]
