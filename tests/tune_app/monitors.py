"""Debian's Prometheus, and what stands in for a Grafana."""

from __future__ import annotations

import contextlib
import http.server
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

from sweeps import PATIENCE_S


class Healthy(http.server.BaseHTTPRequestHandler):
    """Stands where Grafana would: its health check, and pages without anything in them."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json" if self.path == "/api/health" else "text/html")
        self.end_headers()
        self.wfile.write(b'{"database": "ok"}' if self.path == "/api/health" else b"<p>no Grafana</p>")

    def log_message(self, *args: object) -> None:
        """Nothing."""


@contextlib.contextmanager
def prometheus_on(port: int, config: Path, storage: Path) -> Iterator[None]:
    """Debian's Prometheus on loopback with this configuration."""
    with (storage.parent / "prometheus.txt").open("w") as log:
        process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={config}",
                f"--storage.tsdb.path={storage}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            yield
        finally:
            process.terminate()
            process.wait(PATIENCE_S)


@contextlib.contextmanager
def stand_in_grafana() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Healthy)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
