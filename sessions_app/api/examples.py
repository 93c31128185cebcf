"""Examples in the OpenAPI schema; the tests send each request and compare the answers' shapes."""

from __future__ import annotations

from drf_spectacular.utils import OpenApiExample

OPEN_SESSION = [
    OpenApiExample("Python", value={"environment": "python"}, request_only=True),
    OpenApiExample(
        "With your own reference",
        value={"environment": "python", "ttl": 1800, "metadata": {"interview": "7F3A"}},
        request_only=True,
    ),
    OpenApiExample(
        "Ready at once",
        value={
            "session_id": "0f3a2c1e-5b7d-4e8f-9a6b-1c2d3e4f5a6b",
            "status": "ready",
            "environment": "python",
            "message": "Session is ready.",
            "expires_at": "2026-01-05T10:30:00Z",
        },
        response_only=True,
        status_codes=["201"],
    ),
]

CHANGE_SESSION = [
    OpenApiExample("Another hour", value={"ttl": 3600}, request_only=True),
    OpenApiExample(
        "Another reference", value={"metadata": {"interview": "7F3B"}}, request_only=True
    ),
]

FILES = [
    OpenApiExample(
        "After a run",
        value={
            "session_id": "0f3a2c1e-5b7d-4e8f-9a6b-1c2d3e4f5a6b",
            "files": [
                {
                    "path": "main.py",
                    "type": "file",
                    "size": 54,
                    "modified_at": "2026-01-05T10:00:00.250000Z",
                }
            ],
            "truncated": False,
        },
        response_only=True,
    ),
]

EXECUTE = [
    OpenApiExample(
        "A program",
        value={"code": "for i in range(3):\n    print(f'line {i}')\n"},
        request_only=True,
    ),
    OpenApiExample(
        "Input, arguments and files",
        value={
            "code": "import sys\nprint(open('data.txt').read() + input() + sys.argv[1])\n",
            "stdin": "b",
            "args": ["c"],
            "files": {"data.txt": "a"},
            "timeout": 5,
        },
        request_only=True,
    ),
    OpenApiExample(
        "The answer",
        value={
            "session_id": "0f3a2c1e-5b7d-4e8f-9a6b-1c2d3e4f5a6b",
            "execution_id": "6b1f0c9d-2a4e-4d7c-8f5b-3e2d1c0b9a8f",
            "sequence": 1,
            "status": "completed",
            "verdict": "ok",
            "stdout": "line 0\nline 1\nline 2\n",
            "stderr": "",
            "exit_code": 0,
            "execution_time": 0.0162,
            "signal": None,
            "cpu_time": 0.0147,
            "memory_peak": 9961472,
            "prestarted": True,
            "stdout_truncated": False,
            "stderr_truncated": False,
            "compile": None,
            "error": None,
            "revision": 4,
            "image_digest": "sha256:…",
            "queued_at": "2026-01-05T09:30:00.000000Z",
            "started_at": "2026-01-05T09:30:00.006000Z",
            "finished_at": "2026-01-05T09:30:00.026000Z",
        },
        response_only=True,
        status_codes=["200"],
    ),
]

STDIN = [
    OpenApiExample("A line", value={"data": "42\n", "offset": 0}, request_only=True),
    OpenApiExample("The end", value={"eof": True}, request_only=True),
]

RUN_ONCE = [
    OpenApiExample(
        "A program",
        value={"environment": "node", "code": "console.log([1, 2, 3].reduce((a, b) => a + b))"},
        request_only=True,
    ),
]

ENVIRONMENTS = [
    OpenApiExample("As shipped", value=["node", "python", "python-ml", "rust"], response_only=True),
]

TOKEN = [
    OpenApiExample(
        "For the candidate's browser",
        value={"role": "candidate", "expires_in": 7200},
        request_only=True,
    ),
]
