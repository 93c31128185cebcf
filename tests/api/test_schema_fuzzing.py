"""The API against its own schema: a short run of `scripts.fuzz_api`, the same every time.

It has the phases whose requests the schema gives: its examples, and each bound from both sides. The
others are random, and worth their time where they have much of it: `scripts/fuzz api`.
"""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from scripts.fuzz_api import deployment, fuzz

pytestmark = [pytest.mark.stack, pytest.mark.thorough]

GIVEN = "examples,coverage"


def test_whatever_the_schema_allows_is_accepted_and_all_else_refused() -> None:
    with deployment() as url:
        figures = fuzz(url, seed=1, seconds=None, examples=1, phases=GIVEN)
    assert figures.failures == 0, figures.output
    assert figures.operations == 22
    assert figures.calls > 50
    assert {"200", "201", "202", "400", "404", "405"} <= figures.statuses.keys()


LIE = {
    "openapi": "3.1.0",
    "info": {"title": "x", "version": "1"},
    "paths": {
        "/api/v1/environments": {
            "get": {
                "responses": {
                    "200": {
                        "description": "",
                        "content": {"application/json": {"schema": {"type": "integer"}}},
                    }
                }
            }
        }
    },
}
TRUTHS: dict[str, object] = {
    "/api/schema": LIE,
    "/api/v1/environments": ["x"],
    "/api/v1/environments/x": {"default_filename": "x", "maxima": {"timeout": 1}},
}


class Liar(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        content = json.dumps(TRUTHS.get(self.path, {"detail": "", "code": ""})).encode()
        self.send_response(200 if self.path in TRUTHS else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_arguments: object) -> None:
        pass


def test_a_service_that_breaks_its_schema_is_found() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Liar) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}"
            figures = fuzz(url, seed=1, seconds=5, examples=2, phases=GIVEN)
        finally:
            server.shutdown()
            thread.join()
    assert figures.failures > 0, figures.output
    assert "not of type" in figures.output
