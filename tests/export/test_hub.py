"""`--push-to-hub` sends the finished folder through huggingface_hub, to a server of our own."""

from __future__ import annotations

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


class Hub(BaseHTTPRequestHandler):
    """The few answers of the hub's API that creating a repository and one commit need."""

    def _answer(self, content: dict, status: int = 200) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self._answer({"id": "someone/policy", "sha": "0" * 40, "siblings": [], "tags": [], "private": False})

    def do_POST(self):
        chunked = self.headers.get("Transfer-Encoding") == "chunked"
        body = self._chunks() if chunked else self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.requests.append((self.path, body))
        if self.server.refuse:
            return self._answer({"error": "no write access"}, 403)
        answer = {"url": f"{self.server.address}/someone/policy", "id": "someone/policy"}
        if "/preupload/" in self.path:
            paths = [file["path"] for file in json.loads(body)["files"]]
            answer = {"files": [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in paths]}
        elif "/commit/" in self.path:
            url = f"{self.server.address}/someone/policy/commit/{'1' * 40}"
            answer = {"success": True, "commitOid": "1" * 40, "commitUrl": url}
        return self._answer(answer)

    def _chunks(self) -> bytes:
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        return b"".join(parts)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.address = f"http://127.0.0.1:{server.server_port}"
    server.requests, server.refuse = [], False
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.address)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("family", ["qwen3_vl"], indirect=True)
def test_every_file_arrives(hub, full_checkpoint, sayo_command, tmp_path):
    result = sayo_command("export", full_checkpoint, "--out", tmp_path / "out", "--push-to-hub", "someone/policy")
    assert result.exit_code == 0, result.output
    assert "/someone/policy" in result.output
    (commit,) = [body for path, body in hub.requests if "/commit/" in path]
    lines = [json.loads(line) for line in commit.decode().splitlines()]
    sent = {line["value"]["path"]: line["value"]["content"] for line in lines if line["key"] == "file"}
    assert {name: base64.b64decode(content) for name, content in sent.items()} == {
        path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()
    }
    assert b'from_pretrained("someone/policy"' in base64.b64decode(sent["README.md"])


@pytest.mark.parametrize("family", ["qwen3_vl"], indirect=True)
def test_refused_upload_keeps_the_export_and_says_so(hub, full_checkpoint, sayo_command, tmp_path):
    hub.refuse = True
    result = sayo_command("export", full_checkpoint, "--out", tmp_path / "out", "--push-to-hub", "someone/policy")
    assert result.exit_code == 2
    assert hub.requests[0][0] == "/api/repos/create"
    assert "Not uploaded" in result.output and "hf upload someone/policy" in result.output
    assert (tmp_path / "out" / "model.safetensors").is_file()
