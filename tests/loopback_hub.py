"""A Hugging Face Hub on 127.0.0.1: as much of it as pushing a model and loading it again needs.

It keeps models in memory, hands every file out of the newest commit of a branch, and notes each request, so that a test
can say what a client asked for. Small files come inside the commit; `LoopbackHub.large` names those that go to the LFS
store first, as the Hub wants weights (set HF_HUB_DISABLE_XET: there is no Xet store). `fail` makes it refuse.

`client_of(hub, folder)` is for a test that calls the client in its own process; a process of its own takes
`environment(hub, folder)`.
"""

import base64
import fnmatch
import hashlib
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from unittest.mock import patch
from urllib.parse import unquote, urlsplit

import huggingface_hub
import yaml
from huggingface_hub import hf_api

TOKEN, OWNER = "hf_loopback", "me"


@dataclass
class _Failure:
    request: str
    status: int
    message: str
    times: int


class LoopbackHub(ThreadingHTTPServer):
    """The server and what it holds.

    Attributes:
        branches: `{repo_id: {branch: {path: bytes}}}`.
        private: names of the private models; they are shown to holders of `TOKEN` alone.
        store: the LFS store, `{sha256: bytes}`.
        large: patterns of the files that go to the store.
        requests: "METHOD /path" in order; `unknown` are those that this hub has no answer for.
    """

    daemon_threads = True

    def __init__(self, large: tuple[str, ...] = ()) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.branches: dict[str, dict[str, dict[str, bytes]]] = {}
        self.private: set[str] = set()
        self.store: dict[str, bytes] = {}
        self.large = large
        self.requests: list[str] = []
        self.unknown: list[str] = []
        self._failures: list[_Failure] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def repos(self) -> dict[str, dict[str, bytes]]:
        """`{repo_id: {path: bytes}}` of the main branches."""
        return {repo_id: branches["main"] for repo_id, branches in self.branches.items()}

    def sha(self, repo_id: str, branch: str = "main") -> str:
        """The commit: 40 hexadecimal digits that follow from the content."""
        digest = hashlib.sha1()
        for path, content in sorted(self.branches[repo_id][branch].items()):
            digest.update(path.encode() + b"\0" + content)
        return digest.hexdigest()

    def fail(self, request: str, status: int, message: str = "", times: int = 1) -> None:
        """Answers the next `times` requests like `request` ("POST */commit/*") with an error; 0 cuts the connection."""
        self._failures.append(_Failure(request, status, message, times))

    def failure(self, request: str) -> _Failure | None:
        """The failure that this request is meant to meet, used up by asking."""
        for failure in self._failures:
            if failure.times and fnmatch.fnmatch(request, failure.request):
                failure.times -= 1
                return failure
        return None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: LoopbackHub

    def do_POST(self) -> None:
        path, body = self._note(), self._body()
        if self._fails(path):
            return
        if path == "/api/repos/create":
            self._create(json.loads(body))
        elif path == "/api/validate-yaml":
            self._validate(json.loads(body)["content"])
        elif path.endswith(".git/info/lfs/objects/batch"):
            self._batch(json.loads(body)["objects"])
        elif path.startswith("/api/models/"):
            self._write(path.removeprefix("/api/models/"), body)
        else:
            self._not_found(path)

    def do_PUT(self) -> None:
        path, body = self._note(), self._body()
        if not self._fails(path):
            self.server.store[path.removeprefix("/store/")] = body
            self._send(200, b"", {})

    def do_GET(self) -> None:
        path = self._note()
        if self._fails(path):
            return
        if path.startswith("/api/models/"):
            self._model_info(path.removeprefix("/api/models/"))
        elif "/resolve/" in path:
            self._resolve(path)
        elif path == "/api/agent-harnesses":  # the client's own statistics
            self._error("EntryNotFound")
        else:
            self._not_found(path)

    do_HEAD = do_GET

    def log_message(self, *_) -> None:
        """Silence: the requests are noted instead."""

    def _note(self) -> str:
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append(f"{self.command} {path}")
        return path

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _fails(self, path: str) -> bool:
        failure = self.server.failure(f"{self.command} {path}")
        if failure is None:
            return False
        if not failure.status:
            self.close_connection = True
        else:
            self._send(failure.status, b"{}", {"X-Error-Message": failure.message} if failure.message else {})
        return True

    # --- writing ---

    def _create(self, wish: dict) -> None:
        repo_id = f"{wish.get('organization') or OWNER}/{wish['name']}"
        exists = repo_id in self.server.branches
        if not exists:
            self.server.branches[repo_id] = {"main": {}}
            if wish.get("visibility") == "private":
                self.server.private.add(repo_id)
        answer = {"url": f"{self.server.url}/{repo_id}", "name": repo_id, "id": repo_id}
        self._json(answer, 409 if exists else 200)

    def _validate(self, content: str) -> None:
        """What the Hub's own documentation of the card's metadata asks for."""
        errors = [{"message": text} for text in _metadata_errors(content)]
        self._json({"errors": errors, "warnings": []}, 400 if errors else 200)

    def _write(self, rest: str, body: bytes) -> None:
        for verb, write in (("preupload", self._preupload), ("commit", self._commit), ("branch", self._branch)):
            repo_id, found, branch = rest.partition(f"/{verb}/")
            if found and repo_id in self.server.branches:
                write(repo_id, branch, body)
                return
        self._not_found(f"/api/models/{rest}")

    def _preupload(self, repo_id: str, branch: str, body: bytes) -> None:
        if branch not in self.server.branches[repo_id]:
            self._error("RevisionNotFound")
            return
        answers = []
        for path in (file["path"] for file in json.loads(body)["files"]):
            large = any(fnmatch.fnmatch(path, pattern) for pattern in self.server.large)
            answers.append({"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False})
        self._json({"files": answers})

    def _batch(self, objects: list[dict]) -> None:
        answers = []
        for wish in objects:
            here = wish["oid"] in self.server.store
            upload = {"upload": {"href": f"{self.server.url}/store/{wish['oid']}"}}
            answers.append({**wish} if here else {**wish, "actions": upload})
        self._json({"transfer": "basic", "objects": answers})

    def _branch(self, repo_id: str, branch: str, body: bytes) -> None:
        branches = self.server.branches[repo_id]
        if branch in branches:
            self._json({}, 409)
            return
        branches[branch] = dict(branches[json.loads(body).get("startingPoint", "main")])
        self._json({})

    def _commit(self, repo_id: str, branch: str, body: bytes) -> None:
        """All files of the commit or none."""
        files = {}
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            elif line["key"] == "lfsFile":
                files[line["value"]["path"]] = self.server.store[line["value"]["oid"]]
        self.server.branches[repo_id][branch].update(files)
        sha = self.server.sha(repo_id, branch)
        url = f"{self.server.url}/{repo_id}/commit/{sha}"
        self._json({"success": True, "commitUrl": url, "commitOid": sha, "pullRequestUrl": None})

    # --- reading ---

    def _hidden(self, repo_id: str) -> bool:
        known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        return repo_id not in self.server.branches or (repo_id in self.server.private and not known)

    def _branch_of(self, repo_id: str, revision: str) -> str | None:
        """A branch by its name or by its commit."""
        names = self.server.branches[repo_id]
        return next((name for name in names if revision in (name, self.server.sha(repo_id, name))), None)

    def _model_info(self, rest: str) -> None:
        repo_id, _, query = rest.partition("/revision/") if "/revision/" in rest else rest.partition("/tree/")
        if self._hidden(repo_id):
            self._error("RepoNotFound")
            return
        revision, _, folder = query.partition("/") if "/tree/" in rest else (query or "main", "", "")
        branch = self._branch_of(repo_id, revision)
        if branch is None:
            self._error("RevisionNotFound")
        elif "/tree/" in rest:
            self._tree(self.server.branches[repo_id][branch], folder)
        else:
            siblings = [{"rfilename": path} for path in self.server.branches[repo_id][branch]]
            private = repo_id in self.server.private
            sha = self.server.sha(repo_id, branch)
            self._json({"id": repo_id, "sha": sha, "siblings": siblings, "private": private})

    def _tree(self, files: dict[str, bytes], folder: str) -> None:
        found = {path: content for path, content in files.items() if path.startswith(folder)}
        if folder and not found:
            self._error("EntryNotFound")
            return
        self._json([{"type": "file", "path": path, "size": len(found[path]), "oid": "0" * 40} for path in found])

    def _resolve(self, path: str) -> None:
        repo_id, _, rest = path.strip("/").partition("/resolve/")
        revision, _, file = rest.partition("/")
        if self._hidden(repo_id):
            self._error("RepoNotFound")
            return
        branch = self._branch_of(repo_id, revision)
        if branch is None:
            self._error("RevisionNotFound")
        elif file not in self.server.branches[repo_id][branch]:
            self._error("EntryNotFound", self.server.sha(repo_id, branch))
        else:
            content = self.server.branches[repo_id][branch][file]
            etag = f'"{hashlib.sha256(content).hexdigest()}"'
            self._send(200, content, {"ETag": etag, "X-Repo-Commit": self.server.sha(repo_id, branch)})

    # --- answers ---

    def _json(self, answer: dict | list, status: int = 200) -> None:
        self._send(status, json.dumps(answer).encode(), {"Content-Type": "application/json"})

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


_TEXTS = ("license", "license_name", "license_link", "pipeline_tag", "library_name", "base_model_relation")
_LISTS = ("language", "datasets", "metrics", "tags", "base_model")


def _metadata_errors(content: str) -> list[str]:
    """Mistakes in a card's metadata: types of the known fields, what belongs together, the parts of a model index."""
    data = yaml.safe_load(content.split("---\n")[1]) if content.startswith("---\n") else None
    if not isinstance(data, dict):
        return ["metadata are no mapping"]
    errors = [f'"{name}" must be a string' for name in _TEXTS if not isinstance(data.get(name, ""), str)]
    for name in _LISTS:
        values = data.get(name, [])
        if not all(isinstance(value, str) and value for value in (values if isinstance(values, list) else [values])):
            errors.append(f'"{name}" must be strings')
    if data.get("license") == "other" and "license_name" not in data:
        errors.append('"license_name" is required where "license" is other')
    relations = ("adapter", "merge", "quantized", "finetune")
    if data.get("base_model_relation", relations[0]) not in relations:
        errors.append(f'"base_model_relation" must be one of {relations}')
    for entry in data.get("model-index", []):
        errors += [f'"model-index" lacks "{name}"' for name in ("name", "results") if not entry.get(name)]
        for result in entry.get("results", []):
            kinds = [result["task"].get("type"), result["dataset"].get("type"), result["dataset"].get("name")]
            kinds += [metric.get("type") for metric in result["metrics"]]
            numbers = [metric.get("value") for metric in result["metrics"]]
            if not all(isinstance(kind, str) for kind in kinds) or not all(isinstance(n, int | float) for n in numbers):
                errors.append('"model-index" has a result that is not whole')
    return errors


# --- clients --------------------------------------------------------------------------------------------------------


def environment(hub: LoopbackHub, home: Path) -> dict[str, str]:
    """Variables for a fresh process, which reads them when it imports the client."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
    ours = {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_TELEMETRY": "1"}
    return {**clean, **ours, "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1", "OMP_NUM_THREADS": "1"}


@contextmanager
def client_of(hub: LoopbackHub, home: Path) -> Iterator[None]:
    """The client of this process talks to this hub, with a cache of its own."""
    constants = huggingface_hub.constants
    settings = {
        "ENDPOINT": hub.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": hub.url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_CACHE": str(home / "hub"),
        "AGENT_HARNESSES_PATH": str(home / "harnesses.json"),
    }
    settings = {name: value for name, value in settings.items() if hasattr(constants, name)}  # older clients have fewer
    variables = patch.dict(os.environ, HF_TOKEN=TOKEN, NO_PROXY="127.0.0.1")
    # the client's functions outside of a class are methods of an instance that was made at import
    with patch.multiple(constants, **settings), patch.object(hf_api.api, "endpoint", hub.url), variables:
        huggingface_hub.close_session()
        try:
            yield
        finally:
            huggingface_hub.close_session()


@contextmanager
def loopback_hub(large: tuple[str, ...] = ()) -> Iterator[LoopbackHub]:
    """A running hub, stopped at the end."""
    hub = LoopbackHub(large)
    threading.Thread(target=hub.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
