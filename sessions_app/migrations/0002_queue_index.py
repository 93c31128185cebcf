"""django-q2's queue table has no index besides its primary key; taking a message needs this one."""

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [
        ("sessions_app", "0001_initial"),
        ("django_q", "0019_alter_task_options_alter_ormq_key_alter_ormq_lock_and_more"),
    ]

    operations = [
        migrations.RunSQL(
            "CREATE INDEX IF NOT EXISTS code_executor_queue ON django_q_ormq (key, lock)",
            "DROP INDEX IF EXISTS code_executor_queue",
        ),
    ]
