"""The audit of lock files, with the real pip-audit: what it could not ask is no success.

The advisories are those of an HTTP server that speaks OSV's API.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tools.audit import main, verdict

ADVISORY = {
    "schema_version": "1.6.0",
    "id": "GHSA-0000",
    "aliases": ["CVE-2026-1"],
    "summary": "It breaks.",
    "affected": [
        {
            "package": {"name": "broken", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "2"}]}],
        }
    ],
}


class Advisories(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        body = json.dumps({"vulns": [ADVISORY]} if query["package"]["name"] == "broken" else {}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture
def osv() -> Iterator[list[str]]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Advisories) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield ["-s", "osv", "--osv-url", f"http://127.0.0.1:{server.server_port}"]
        server.shutdown()
        thread.join()


def lock(path: Path, *names: str) -> list[str]:
    path.write_text("".join(f"{name}==1 \\\n    --hash=sha256:{'0' * 64}\n" for name in names))
    return ["--lock", str(path)]


def test_an_advisory_is_named_with_the_version_that_mends_it(
    osv: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*osv, *lock(tmp_path / "a.lock", "sound", "broken")]) == 1
    assert capsys.readouterr().out == (
        "broken 1: CVE-2026-1 (GHSA-0000), fixed in 2\n2 packages audited, 1 advisories\n"
    )


def test_without_advisories_it_succeeds(osv: list[str], tmp_path: Path) -> None:
    assert main([*osv, *lock(tmp_path / "a.lock", "sound")]) == 0


def test_a_service_that_cannot_be_asked_is_no_success(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nowhere = ["-s", "osv", "--osv-url", "http://127.0.0.1:1"]
    assert main([*nowhere, *lock(tmp_path / "a.lock", "sound")]) == 3
    assert capsys.readouterr().err.startswith("NOT AUDITED: ")


def test_a_package_that_the_service_does_not_know_is_no_success() -> None:
    unknown = {"name": "sound", "skip_reason": "not found"}
    assert verdict({"dependencies": [unknown]}) == (
        3,
        ["0 packages audited, 0 advisories", "NOT AUDITED: 1 packages, first of them: not found"],
    )
    assert verdict({"dependencies": []})[0] == 3
