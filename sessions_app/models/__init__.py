"""The rows that are the truth about sessions. Each transition of a status is written here, once,
as a conditional UPDATE that names the statuses it starts from. False or None means that another
process was faster.
"""

from sessions_app.models.api_process import ApiProcess
from sessions_app.models.client import ApiKey, Client, ClientAllowance, ClientStorage
from sessions_app.models.execution import Execution
from sessions_app.models.failed_login import FailedLogin
from sessions_app.models.idempotency import IdempotencyKey
from sessions_app.models.input_piece import InputPiece
from sessions_app.models.isolation import AttackResult, IsolationCheck
from sessions_app.models.node import Node
from sessions_app.models.output_event import Event
from sessions_app.models.sandbox import Sandbox
from sessions_app.models.session import Session
from sessions_app.models.statistics import IntervalCounts, Total, TotalMark
from sessions_app.models.warm_pool import WarmPool
from sessions_app.models.workspace_query import WorkspaceQuery, WorkspaceQueryPiece

__all__ = [
    "ApiKey",
    "ApiProcess",
    "AttackResult",
    "Client",
    "ClientAllowance",
    "ClientStorage",
    "Event",
    "Execution",
    "FailedLogin",
    "IdempotencyKey",
    "InputPiece",
    "IntervalCounts",
    "IsolationCheck",
    "Node",
    "Sandbox",
    "Session",
    "Total",
    "TotalMark",
    "WarmPool",
    "WorkspaceQuery",
    "WorkspaceQueryPiece",
]
