"""`--push-to-hub` sends the finished folder through huggingface_hub, here to a local server."""

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


class Hub(BaseHTTPRequestHandler):
    """The responses of the hub's API that creating a repository and one commit need."""

    def do_GET(self):
        self._answer({"id": "someone/policy", "sha": "0" * 40, "siblings": [], "tags": [], "private": False})

    def do_POST(self):
        body = b"".join(self._chunks())
        self.server.requests.append((self.path, body))
        if self.server.refuse:
            return self._answer({"error": "no write access"}, 403)
        url = f"{self.server.address}/someone/policy"
        answer = {"url": url, "id": "someone/policy"}
        if "/preupload/" in self.path:
            paths = [file["path"] for file in json.loads(body)["files"]]
            answer = {"files": [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in paths]}
        elif "/commit/" in self.path:
            answer = {"success": True, "commitOid": "1" * 40, "commitUrl": f"{url}/commit/{'1' * 40}"}
        return self._answer(answer)

    def _chunks(self):
        if self.headers.get("Transfer-Encoding") != "chunked":
            yield self.rfile.read(int(self.headers.get("Content-Length") or 0))
            return
        while size := int(self.rfile.readline(), 16):
            yield self.rfile.read(size)
            self.rfile.readline()

    def _answer(self, content: dict, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(content).encode())

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(monkeypatch):
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        server.address = f"http://127.0.0.1:{server.server_port}"
        server.requests, server.refuse = [], False
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.address)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", "hf_test")
        yield server
        server.shutdown()


@pytest.mark.parametrize("family", ["qwen3_vl"], indirect=True)
def test_a_refused_upload_keeps_the_export(hub, full_checkpoint, sayo_command, tmp_path):
    """And an accepted one has every file."""
    out, hub.refuse = tmp_path / "out", True
    arguments = ("export", full_checkpoint, "--out", out, "--push-to-hub", "someone/policy", "--overwrite")
    result = sayo_command(*arguments)
    assert result.exit_code == 2 and hub.requests[0][0] == "/api/repos/create"
    assert "Not uploaded" in result.output and "hf upload someone/policy" in result.output
    assert (out / "model.safetensors").is_file()
    hub.refuse = False
    result = sayo_command(*arguments)
    assert result.exit_code == 0 and "/someone/policy" in result.output, result.output
    (commit,) = [body for path, body in hub.requests if "/commit/" in path]
    lines = [json.loads(line) for line in commit.decode().splitlines()]
    sent = {line["value"]["path"]: line["value"]["content"] for line in lines if line["key"] == "file"}
    assert {name: base64.b64decode(content) for name, content in sent.items()} == {
        path.name: path.read_bytes() for path in out.iterdir()
    }
    assert b'from_pretrained("someone/policy"' in base64.b64decode(sent["README.md"])
