from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        # By the name of the last one that was squashed: Django then refuses an older database in words.
        ("sessions_app", "0027_session_opening"),
    ]

    operations = [
        migrations.RenameModel(old_name="Inquiry", new_name="WorkspaceQuery"),
        migrations.RenameModel(old_name="InquiryPiece", new_name="WorkspaceQueryPiece"),
        migrations.RemoveConstraint("workspacequery", "inquiry_answer_fits_status"),
        migrations.RemoveConstraint("workspacequerypiece", "inquiry_piece_number"),
        migrations.RenameField("workspacequerypiece", old_name="inquiry_id", new_name="query_id"),
        migrations.AlterModelOptions(
            name="workspacequery",
            options={"default_permissions": (), "verbose_name_plural": "workspace queries"},
        ),
        migrations.AddConstraint(
            model_name="workspacequery",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    models.Q(
                        ("answer__isnull", True), ("code", ""), ("status__in", ["asked", "taken"])
                    ),
                    models.Q(("answer__isnull", False), ("code", ""), ("status", "answered")),
                    models.Q(
                        ("answer__isnull", True),
                        ("status", "refused"),
                        models.Q(("code", ""), _negated=True),
                    ),
                    _connector="OR",
                ),
                name="workspace_query_answer_fits_status",
            ),
        ),
        migrations.AddConstraint(
            model_name="workspacequerypiece",
            constraint=models.UniqueConstraint(
                fields=("query_id", "number"), name="workspace_query_piece_number"
            ),
        ),
    ]
