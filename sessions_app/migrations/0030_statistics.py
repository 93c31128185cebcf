"""One pass counts for Prometheus and for the console: it adds each run to its interval when it has
ended, instead of counting whole minutes anew. Runs that ended within the last seconds before may
show twice in the console's charts; nothing is lost.
"""

from django.db import migrations, models

# The stages get the names that they have in /metrics. What has not ended is counted when it has.
_RENAME = """
UPDATE sessions_app_intervalcounts SET counts = jsonb_strip_nulls(
    (counts - '{queue,prepare,start,starting}'::text[]) || jsonb_build_object(
        'queue_wait', counts -> 'queue',
        'start', counts -> 'prepare',
        'session_start', counts -> 'start',
        'verdict', (counts -> 'verdict') - ''
    )
)
"""
_COUNT_ANEW = "DELETE FROM sessions_app_intervalcounts"
"""The version before does so from the rows."""


class Migration(migrations.Migration):
    dependencies = [("sessions_app", "0029_metadata_bytes")]

    operations = [
        migrations.RemoveIndex("RunTally", name="run_tally_unsettled"),
        migrations.RemoveConstraint("RunTally", name="run_tally_once"),
        migrations.RenameModel("RunTally", "IntervalCounts"),
        migrations.AlterModelOptions(
            name="intervalcounts",
            options={"default_permissions": (), "verbose_name_plural": "interval counts"},
        ),
        migrations.AddConstraint(
            model_name="intervalcounts",
            constraint=models.UniqueConstraint(
                fields=["lasts", "begins_at"], name="interval_counts_once"
            ),
        ),
        migrations.RunSQL(_RENAME, migrations.RunSQL.noop),
        migrations.RemoveField("intervalcounts", "settled"),
        migrations.RemoveField("intervalcounts", "counted_at"),
        migrations.RunSQL(migrations.RunSQL.noop, _COUNT_ANEW),
    ]
