"""A Hugging Face Hub in this process: enough of its protocol to create, fill, read and refuse model repositories.

    with FakeHub() as hub:
        hub.add("me/digits", folder)                                  # as if it had been pushed
        subprocess.run(..., env=hub.environment(tmp_path / "home"))   # a process that knows no other Hub
        assert "README.md" in hub.repositories["me/new"].files

`huggingface_hub` reads the address of the Hub when it is imported. Hence a process of its own, whose environment has
the address, a token, and a private home for the cache; Xet is turned off, so that files go by LFS or in the commit.

A test sets the scene with `add`, `refuse` and `cut`, and looks at `repositories` and `requests` afterwards. A private
repository is not to be seen without the token. Only models, only the branch main.
"""

import base64
import hashlib
import json
import os
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlparse


@dataclass
class Repository:
    """`files` of the newest commit by their path; `commits` are the titles of all, oldest first."""

    private: bool = False
    files: dict[str, bytes] = field(default_factory=dict)
    commits: list[str] = field(default_factory=list)
    snapshots: dict[str, dict[str, bytes]] = field(default_factory=dict)
    revision: str = ""

    def commit(self, title: str, changes: dict[str, bytes | None]) -> None:
        """Adds, replaces or (None) removes files."""
        kept = {**self.files, **changes}
        self.files = {path: content for path, content in kept.items() if content is not None}
        self.commits.append(title)
        self.revision = hashlib.sha1(f"{title} {len(self.commits)} {sorted(self.files)}".encode()).hexdigest()
        self.snapshots[self.revision] = self.files


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    token: str | None


@dataclass(frozen=True)
class Answer:
    """`content` is sent as it is if it is bytes, else as JSON."""

    content: object = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


class FakeHub:
    """The server, while the `with` block lasts. The user is "me" and `token` is the one that may write."""

    token = "hf_ofTheTests"
    user = "me"

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.requests: list[Request] = []
        self._refusals: list[tuple[str, int, str]] = []
        self._uploads: dict[str, bytes] = {}
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> "FakeHub":
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def environment(self, home: Path, token: str | None = token, offline: bool = False) -> dict[str, str]:
        """The variables of a process that knows this Hub alone; `home` keeps its cache, `token` None logs it out."""
        mine = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
        mine |= {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "HF_TOKEN": token or ""}
        mine |= dict.fromkeys(("HF_HUB_DISABLE_XET", "HF_HUB_DISABLE_TELEMETRY"), "1")
        return mine | ({"HF_HUB_OFFLINE": "1"} if offline else {})

    def add(self, repo_id: str, folder: Path, private: bool = False) -> Repository:
        """A repository with the files of `folder`."""
        repository = self.repositories[repo_id] = Repository(private)
        files = (path for path in sorted(folder.rglob("*")) if path.is_file())
        repository.commit("Add model", {path.relative_to(folder).as_posix(): path.read_bytes() for path in files})
        return repository

    def refuse(self, pattern: str, status: int, code: str = "") -> None:
        """Answers requests whose "METHOD /path" matches the regular expression `pattern` with `status` and the Hub's
        error `code`, such as GatedRepo: `refuse("POST .*/commit/", 403)`. Status 0 cuts the line."""
        self._refusals.append((pattern, status, code))

    def cut(self, pattern: str = "") -> None:
        """Closes the connection unanswered, as where there is no network; without `pattern`, for every request."""
        self.refuse(pattern, 0)

    # ------------------------------------------------------------------ the protocol

    def answer(self, request: Request, body: bytes, host: str) -> Answer | None:
        """None cuts the line."""
        with self._lock:
            self.requests.append(request)
            path = unquote(urlparse(request.path).path)
            for pattern, status, code in self._refusals:
                if re.search(pattern, f"{request.method} {path}"):
                    return Answer({"error": code}, status, {"X-Error-Code": code}) if status else None
            for pattern, respond in _ROUTES:
                found = re.fullmatch(pattern, path)
                if found:
                    return self._respond(respond, found, request, body, host)
        return Answer({"error": f"no such page: {path}"}, 404)

    def _respond(self, respond: Callable, found: re.Match, request: Request, body: bytes, host: str) -> Answer:
        groups = found.groupdict()
        if "repo" not in groups:
            return respond(self, request, body, host, **groups)
        repository = self.repositories.get(groups["repo"])
        is_reader = request.token == self.token
        if repository is None or (repository.private and not is_reader):
            status = 404 if is_reader else 401  # the Hub does not tell strangers which repositories there are
            return Answer({"error": "Repository not found"}, status, {"X-Error-Code": "RepoNotFound"})
        if request.method in ("POST", "PUT", "DELETE") and not is_reader and "paths-info" not in request.path:
            return Answer({"error": "You are not allowed to write here"}, 403)
        return respond(self, repository, body, host, **groups)

    def _whoami(self, request: Request, body: bytes, host: str) -> Answer:
        if request.token != self.token:
            return Answer({"error": "Invalid credentials"}, 401)
        role = {"displayName": "tests", "role": "write"}
        return Answer(
            {"type": "user", "name": self.user, "orgs": [], "auth": {"type": "access_token", "accessToken": role}}
        )

    def _validate(self, request: Request, body: bytes, host: str) -> Answer:
        return Answer({"errors": [], "warnings": []})

    def _create(self, request: Request, body: bytes, host: str) -> Answer:
        wanted = json.loads(body)
        if request.token != self.token:
            return Answer({"error": "Invalid credentials"}, 401)
        owner = wanted.get("organization") or self.user
        repo_id = f"{owner}/{wanted['name']}"
        if owner != self.user:
            return Answer({"error": f"You may not create a repository of {owner}"}, 403)
        exists = repo_id in self.repositories
        if not exists:
            private = bool(wanted.get("private")) or wanted.get("visibility") == "private"
            self.repositories[repo_id] = Repository(private)
            self.repositories[repo_id].commit("initial commit", {".gitattributes": b"*.safetensors filter=lfs\n"})
        answer = {"url": f"{host}/{repo_id}", "name": repo_id, "id": repo_id}
        return Answer(answer | ({"error": "You already created this repo"} if exists else {}), 409 if exists else 200)

    def _info(self, repository: Repository, body: bytes, host: str, repo: str, revision: str | None) -> Answer:
        sha = self._sha(repository, revision)
        if sha is None:
            return Answer({"error": "Invalid rev id"}, 404, {"X-Error-Code": "RevisionNotFound"})
        files = [{"rfilename": path} for path in repository.snapshots[sha]]
        content = {"_id": repo, "id": repo, "modelId": repo, "sha": sha, "tags": [], "siblings": files}
        return Answer(content | {"private": repository.private})

    def _tree(
        self, repository: Repository, body: bytes, host: str, repo: str, revision: str, under: str | None
    ) -> Answer:
        files = repository.snapshots[self._sha(repository, revision)]
        return Answer([_entry(path, files[path]) for path in files if path.startswith(under or "")])

    def _paths(self, repository: Repository, body: bytes, host: str, repo: str, revision: str) -> Answer:
        files = repository.snapshots[self._sha(repository, revision)]
        try:
            wanted = json.loads(body)["paths"]
        except ValueError:  # sent as a form
            wanted = [unquote(part.partition("=")[2]) for part in body.decode().split("&") if part.startswith("paths")]
        return Answer([_entry(path, files[path]) for path in wanted if path in files])

    def _preupload(self, repository: Repository, body: bytes, host: str, repo: str, revision: str) -> Answer:
        def mode(path: str) -> str:
            return "lfs" if path.endswith((".safetensors", ".bin", ".pt", ".png")) else "regular"

        files = [entry["path"] for entry in json.loads(body)["files"]]
        return Answer({"files": [{"path": path, "uploadMode": mode(path), "shouldIgnore": False} for path in files]})

    def _lfs_batch(self, repository: Repository, body: bytes, host: str, repo: str) -> Answer:
        def upload(oid: str) -> dict[str, object]:
            action = {"upload": {"href": f"{host}/_lfs/{oid}", "header": {}}}
            return {} if oid in self._uploads else {"actions": action}

        wanted = json.loads(body)["objects"]
        objects = [{"oid": entry["oid"], "size": entry["size"], **upload(entry["oid"])} for entry in wanted]
        return Answer({"transfer": "basic", "objects": objects})

    def _lfs_put(self, request: Request, body: bytes, host: str, oid: str) -> Answer:
        if hashlib.sha256(body).hexdigest() != oid:
            return Answer({"error": "content and name differ"}, 400)
        self._uploads[oid] = body
        return Answer()

    def _commit(self, repository: Repository, body: bytes, host: str, repo: str, revision: str) -> Answer:
        title, changes = "", {}
        for line in body.decode().splitlines():
            operation = json.loads(line)
            value = operation["value"]
            if operation["key"] == "header":
                title = value["summary"]
            elif operation["key"] == "file":
                changes[value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "lfsFile":
                changes[value["path"]] = self._uploads[value["oid"]]
            elif operation["key"] == "deletedFile":
                changes[value["path"]] = None
        repository.commit(title, changes)
        sha = repository.revision
        url = f"{host}/{repo}/commit/{sha}"
        return Answer({"success": True, "commitOid": sha, "commitUrl": url, "hookOutput": ""})

    def _resolve(self, repository: Repository, body: bytes, host: str, repo: str, revision: str, path: str) -> Answer:
        sha = self._sha(repository, revision)
        if sha is None:
            return Answer(b"", 404, {"X-Error-Code": "RevisionNotFound"})
        content = repository.snapshots[sha].get(path)
        if content is None:
            return Answer(b"", 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": sha})
        return Answer(content, 200, {"ETag": f'"{_blob_id(content)}"', "X-Repo-Commit": sha, "Accept-Ranges": "bytes"})

    @staticmethod
    def _sha(repository: Repository, revision: str | None) -> str | None:
        sha = repository.revision if revision in (None, "main") else revision
        return sha if sha in repository.snapshots else None


def _blob_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _entry(path: str, content: bytes) -> dict[str, object]:
    return {"type": "file", "path": path, "size": len(content), "oid": _blob_id(content)}


_REPO = r"(?P<repo>[^/]+/[^/]+)"
_MODEL = rf"/api/models/{_REPO}"
_ROUTES = [
    (r"/api/whoami-v2", FakeHub._whoami),
    (r"/api/validate-yaml", FakeHub._validate),
    (r"/api/repos/create", FakeHub._create),
    (rf"{_MODEL}(?:/revision/(?P<revision>[^/]+))?", FakeHub._info),
    (rf"{_MODEL}/tree/(?P<revision>[^/]+)(?:/(?P<under>.*))?", FakeHub._tree),
    (rf"{_MODEL}/paths-info/(?P<revision>[^/]+)", FakeHub._paths),
    (rf"{_MODEL}/preupload/(?P<revision>[^/]+)", FakeHub._preupload),
    (rf"{_MODEL}/commit/(?P<revision>[^/]+)", FakeHub._commit),
    (rf"/{_REPO}\.git/info/lfs/objects/batch", FakeHub._lfs_batch),
    (r"/_lfs/(?P<oid>\w+)", FakeHub._lfs_put),
    (rf"/{_REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.*)", FakeHub._resolve),
]


def _handler(hub: FakeHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
            host = f"http://{self.headers['Host']}"
            answer = hub.answer(Request(self.command, self.path, token), self._body(), host)
            if answer is None:
                self.close_connection = True
                return
            is_raw = isinstance(answer.content, bytes)
            content = answer.content if is_raw else json.dumps(answer.content).encode()
            self.send_response(answer.status)
            self.send_header("Content-Type", "application/octet-stream" if is_raw else "application/json")
            self.send_header("Content-Length", str(len(content)))
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_any

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))
            content = b""
            while size := int(self.rfile.readline(), 16):
                content += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return content

        def log_message(self, *_: object) -> None:
            """Nothing on the terminal."""

    return Handler
