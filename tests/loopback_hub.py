"""A Hugging Face Hub on 127.0.0.1: as much of it as pushing a model and loading it again needs.

It keeps models in memory, hands every file out of its newest commit, and notes each request, so that a test can say
what a client asked for. Uploads come as "regular" files inside the commit: no LFS and no Xet storage.
"""

import base64
import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


class LoopbackHub(ThreadingHTTPServer):
    """The server and what it holds: `repos[repo_id][path]` are bytes, `requests` are "METHOD /path" in order."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos: dict[str, dict[str, bytes]] = {}
        self.requests: list[str] = []
        self.unknown: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def sha(self, repo_id: str) -> str:
        """The commit: 40 hexadecimal digits that follow from the content."""
        digest = hashlib.sha1()
        for path, content in sorted(self.repos[repo_id].items()):
            digest.update(path.encode() + b"\0" + content)
        return digest.hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: LoopbackHub

    def do_POST(self) -> None:
        path = self._note()
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if path == "/api/repos/create":
            self._create(json.loads(body))
        elif path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif path.startswith("/api/models/") and "/preupload/" in path:
            paths = [file["path"] for file in json.loads(body)["files"]]
            self._json({"files": [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in paths]})
        elif path.startswith("/api/models/") and "/commit/" in path:
            self._commit(path.removeprefix("/api/models/").split("/commit/")[0], body)
        else:
            self._not_found(path)

    def do_GET(self) -> None:
        path = self._note()
        if path.startswith("/api/models/"):
            self._model_info(path.removeprefix("/api/models/"))
        elif "/resolve/" in path:
            self._resolve(path)
        else:
            self._not_found(path)

    do_HEAD = do_GET

    def log_message(self, *_) -> None:
        """Silence: the requests are noted instead."""

    def _note(self) -> str:
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append(f"{self.command} {path}")
        return path

    def _create(self, wish: dict) -> None:
        repo_id = f"{wish['organization']}/{wish['name']}" if wish.get("organization") else wish["name"]
        self.server.repos.setdefault(repo_id, {})
        self._json({"url": f"{self.server.url}/{repo_id}", "name": repo_id, "id": repo_id})

    def _commit(self, repo_id: str, body: bytes) -> None:
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                self.server.repos[repo_id][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        sha = self.server.sha(repo_id)
        url = f"{self.server.url}/{repo_id}/commit/{sha}"
        self._json({"success": True, "commitUrl": url, "commitOid": sha, "pullRequestUrl": None})

    def _model_info(self, rest: str) -> None:
        repo_id, _, query = rest.partition("/revision/") if "/revision/" in rest else rest.partition("/tree/")
        if repo_id not in self.server.repos:
            self._error("RepoNotFound")
        elif "/tree/" in rest:
            self._tree(repo_id, query.partition("/")[2])
        else:
            siblings = [{"rfilename": path} for path in self.server.repos[repo_id]]
            self._json({"id": repo_id, "sha": self.server.sha(repo_id), "siblings": siblings, "private": False})

    def _tree(self, repo_id: str, folder: str) -> None:
        files = {path: content for path, content in self.server.repos[repo_id].items() if path.startswith(folder)}
        if folder and not files:
            self._error("EntryNotFound")
            return
        self._json([{"type": "file", "path": path, "size": len(files[path]), "oid": "0" * 40} for path in files])

    def _resolve(self, path: str) -> None:
        repo_id, _, rest = path.strip("/").partition("/resolve/")
        file = rest.partition("/")[2]
        if repo_id not in self.server.repos:
            self._error("RepoNotFound")
        elif file not in self.server.repos[repo_id]:
            self._error("EntryNotFound", self.server.sha(repo_id))
        else:
            content = self.server.repos[repo_id][file]
            etag = f'"{hashlib.sha256(content).hexdigest()}"'
            self._send(200, content, {"ETag": etag, "X-Repo-Commit": self.server.sha(repo_id)})

    def _json(self, answer: dict | list) -> None:
        self._send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def _error(self, code: str, commit: str | None = None) -> None:
        headers = {"X-Error-Code": code, "X-Error-Message": code}
        self._send(404, b"{}", {**headers, "X-Repo-Commit": commit} if commit else headers)

    def _not_found(self, path: str) -> None:
        self.server.unknown.append(f"{self.command} {path}")
        self._send(404, b"{}", {})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@contextmanager
def loopback_hub():
    """A running hub, stopped at the end."""
    hub = LoopbackHub()
    threading.Thread(target=hub.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
