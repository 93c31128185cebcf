from __future__ import annotations

from django.db import models

from environments_app.models import Environment
from sessions_app.models.node import Node


class WarmPool(models.Model):
    """What the sessions of the last hour make of a node's warm pool. Written by the node's upkeep
    (`sessions_app.node.pool_demand`); without a row, the pool has the environment's size.
    """

    node = models.ForeignKey(Node, on_delete=models.CASCADE, related_name="warm_pools")
    environment = models.ForeignKey(
        Environment, on_delete=models.CASCADE, related_name="warm_pools", db_index=False
    )
    wanted = models.PositiveSmallIntegerField(
        help_text="How many warm sandboxes the node keeps, if that is more than the pool's size."
    )

    class Meta:
        default_permissions = ()
        constraints = [
            models.UniqueConstraint(fields=["environment", "node"], name="warm_pool_once_on_a_node")
        ]

    def __str__(self) -> str:
        return f"{self.environment_id} {self.node_id}: {self.wanted}"
