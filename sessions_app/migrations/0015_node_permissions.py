from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("sessions_app", "0014_steering")]

    operations = [
        migrations.AlterModelOptions(
            name="node",
            options={
                "ordering": ("name",),
                "permissions": (
                    ("drain_node", "Can drain nodes"),
                    ("resume_node", "Can resume nodes"),
                    ("recycle_node", "Can recycle the pools of nodes"),
                ),
            },
        ),
    ]
