"""A server on this machine with the part of the Hub's interface that huggingface_hub uses to push and to load."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

__all__ = ["Hub", "Repository", "running_hub"]

TOKEN = "a-token-of-the-tests"


@dataclass
class Repository:
    """Branches and commits of one repository: each commit is its files by name."""

    private: bool
    branches: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)

    def files(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        commit = self.branches.get(revision, revision)
        return (commit, self.commits[commit]) if commit in self.commits else None

    def commit(self, branch: str, files: dict[str, bytes]) -> str:
        commit = hashlib.sha1(f"{branch} {len(self.commits)}".encode()).hexdigest()
        self.commits[commit] = files
        self.branches[branch] = commit
        return commit


@dataclass
class Hub:
    """The state of the server, and the requests that it got as `METHOD /path`."""

    repositories: dict[str, Repository] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    refuse: dict[str, int] = field(default_factory=dict)
    """Start of a request to the status that it is refused with."""
    url: str = ""

    def latest(self, repo: str, branch: str = "main") -> dict[str, bytes]:
        found = self.repositories[repo].files(branch)
        assert found is not None
        return found[1]


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def handle_one(self) -> None:
        parts = urlsplit(self.path)
        path, query = unquote(parts.path), parse_qs(parts.query)
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length) if length else self._chunks()
        line = f"{self.command} {path}"
        self.hub.requests.append(line)
        for start, status in self.hub.refuse.items():
            if line.startswith(start):
                return self.answer(status, {"error": "refused by the test"})
        if self.command in ("POST", "PUT") and path.startswith("/api/") and not self._logged_in():
            return self.answer(401, {"error": "Invalid username or password."})
        return self.route(path, query, body)

    do_GET = do_HEAD = do_POST = do_PUT = handle_one  # noqa: N815 - names of http.server

    def _logged_in(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _chunks(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return b""
        found = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            found += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return found

    def route(self, path: str, query: dict[str, list[str]], body: bytes) -> None:
        words = path.strip("/").split("/")
        match words:
            case ["api", "repos", "create"]:
                given = json.loads(body)
                repo = f"{given['organization']}/{given['name']}" if given.get("organization") else given["name"]
                if repo in self.hub.repositories:
                    return self.answer(409, {"error": "You already created this model repo", "url": self.where(repo)})
                private = given.get("visibility") == "private" or bool(given.get("private"))
                made = self.hub.repositories[repo] = Repository(private)
                made.commit("main", {".gitattributes": b""})
                return self.answer(200, {"url": self.where(repo), "name": repo})
            case ["api", "validate-yaml"]:
                return self.answer(200, {"errors": [], "warnings": []})
            case ["api", "whoami-v2"]:
                return self.answer(200, {"name": "user", "type": "user", "orgs": []})
            case ["lfs", oid]:
                self.hub.large[oid] = body
                return self.answer(200, {})
            case [_, _, "info", "lfs", "objects", "batch"]:
                objects = [
                    {
                        "oid": o["oid"],
                        "size": o["size"],
                        "actions": {"upload": {"href": f"{self.hub.url}/lfs/{o['oid']}"}},
                    }
                    for o in json.loads(body)["objects"]
                ]
                return self.answer(200, {"transfer": "basic", "objects": objects})
        repo = "/".join(words[2:4] if words[0] == "api" else words[:2])
        if repo not in self.hub.repositories:
            return self.answer(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        stored = self.hub.repositories[repo]
        match words:
            case ["api", "models", _, _, "branch", *branch]:
                name = "/".join(branch)
                if name in stored.branches:
                    return self.answer(409, {"error": "Reference already exists"})
                stored.branches[name] = stored.branches["main"]
                return self.answer(201, {})
            case ["api", "models", _, _, "preupload", *_]:
                files = [
                    {"path": f["path"], "uploadMode": self.mode(f["path"]), "shouldIgnore": False}
                    for f in json.loads(body)["files"]
                ]
                return self.answer(200, {"files": files})
            case ["api", "models", _, _, "commit", *branch]:
                return self.commit(repo, stored, "/".join(branch), body)
            case ["api", "models", _, _, "revision", *revision]:
                return self.info(repo, stored, "/".join(revision))
            case ["api", "models", _, _]:
                return self.info(repo, stored, "main")
            case [_, _, "resolve", *rest]:
                return self.resolve(stored, "/".join(rest))
        return self.answer(404, {"error": f"not in this server: {path} {query}"})

    def mode(self, path: str) -> str:
        return "lfs" if path.endswith((".safetensors", ".bin")) else "regular"

    def where(self, repo: str) -> str:
        return f"{self.hub.url}/{repo}"

    def info(self, repo: str, stored: Repository, revision: str) -> None:
        found = stored.files(revision)
        if found is None:
            return self.answer(404, {"error": "Invalid rev id"}, {"X-Error-Code": "RevisionNotFound"})
        commit, files = found
        siblings = [{"rfilename": name} for name in files]
        return self.answer(
            200, {"id": repo, "sha": commit, "private": stored.private, "siblings": siblings, "tags": []}
        )

    def commit(self, repo: str, stored: Repository, branch: str, body: bytes) -> None:
        if branch not in stored.branches:
            return self.answer(404, {"error": "Invalid rev id"}, {"X-Error-Code": "RevisionNotFound"})
        files = dict(stored.commits[stored.branches[branch]])
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.hub.large[value["oid"]]
        commit = stored.commit(branch, files)
        return self.answer(200, {"commitUrl": f"{self.where(repo)}/commit/{commit}", "commitOid": commit,
                                 "success": True})  # fmt: skip

    def resolve(self, stored: Repository, rest: str) -> None:
        """Answer `revision/file`; a revision may have slashes of its own."""
        words = rest.split("/")
        for count in range(1, len(words)):
            found = stored.files("/".join(words[:count]))
            if found is not None:
                commit, files = found
                name = "/".join(words[count:])
                if name not in files:
                    return self.answer(404, {"error": "Entry not found"}, {
                        "X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})  # fmt: skip
                content = files[name]
                kind = hashlib.sha256 if self.mode(name) == "lfs" else hashlib.sha1
                return self.answer(200, content, {"ETag": f'"{kind(content).hexdigest()}"', "X-Repo-Commit": commit})
        return self.answer(404, {"error": "Invalid rev id"}, {"X-Error-Code": "RevisionNotFound"})

    def answer(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if isinstance(content, dict) and "error" in content:
            self.send_header("X-Error-Message", content["error"])
        self.send_header("Content-Type", "application/octet-stream" if data is content else "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


@contextmanager
def running_hub() -> Iterator[Hub]:
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
