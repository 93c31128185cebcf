from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("environments_app", "0001_initial"),
        ("sessions_app", "0016_observation"),
    ]

    operations = [
        migrations.AddField(
            model_name="execution",
            name="revision",
            field=models.ForeignKey(
                db_index=False,
                help_text="Of the environment, and so the image, that it ran in.",
                null=True,
                on_delete=models.deletion.PROTECT,
                related_name="+",
                to="environments_app.environmentrevision",
            ),
        ),
    ]
