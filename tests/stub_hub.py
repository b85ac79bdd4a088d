"""A model hub on loopback: a real HTTP server that says what huggingface_hub asks for, and can be told to fail."""

import hashlib
import json
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from types import TracebackType
from typing import Any
from urllib.parse import unquote, urlsplit

NAME = "tests/model"
COMMIT = "c0ffee" * 6 + "beef"
LARGE_BYTES = 64  # files above this are stored by their SHA-256, as large files are on a real hub


@dataclass
class Asked:
    """One request as it arrived."""

    method: str
    path: str
    token: str | None
    range: str | None


@dataclass
class Repository:
    """What the hub holds under one name; `served` overrides the bytes that are sent, `told` the sizes announced."""

    files: dict[str, bytes]
    commit: str = COMMIT
    served: dict[str, bytes] = field(default_factory=dict)
    told: dict[str, int] = field(default_factory=dict)
    cut_once: set[str] = field(default_factory=set)
    refusal: tuple[int, str | None] | None = None

    def digest(self, path: str) -> str | None:
        """SHA-256 of a large file, None for a small one."""
        data = self.files[path]
        return hashlib.sha256(data).hexdigest() if len(data) > LARGE_BYTES else None

    def size(self, path: str) -> int:
        """The size announced."""
        return self.told.get(path, len(self.files[path]))


class StubHub:
    """The server; `asked` lists all requests in order. Use as a context manager."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.asked: list[Asked] = []
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "StubHub":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop answering; connections are refused from now on."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()

    def fetched(self) -> list[str]:
        """Paths of the files whose content was asked for, sorted."""
        return sorted(
            asked.path.partition("/resolve/")[2].partition("/")[2]
            for asked in self.asked
            if asked.method == "GET" and "/resolve/" in asked.path
        )


class _Handler(BaseHTTPRequestHandler):
    hub: StubHub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path).lstrip("/")
        header = self.headers.get("Authorization")
        self.hub.asked.append(Asked(self.command, path, header, self.headers.get("Range")))
        if path.startswith("api/models/"):
            self._tell(*path.removeprefix("api/models/").split("/"))
        elif "/resolve/" in path:
            name, _, rest = path.partition("/resolve/")
            self._send_file(name, *rest.split("/", 1))
        else:
            self._refuse(404, None)

    def _tell(self, organisation: str, name: str, what: str, revision: str, *_rest: str) -> None:
        repository = self._repository(f"{organisation}/{name}", revision)
        if repository is None:
            return
        if what == "tree":
            self._send_json([_tree_entry(repository, path) for path in repository.files])
        else:
            siblings = [_sibling(repository, path) for path in repository.files]
            self._send_json({"id": f"{organisation}/{name}", "sha": repository.commit or None, "siblings": siblings})

    def _send_file(self, name: str, revision: str, path: str) -> None:
        repository = self._repository(name, revision)
        if repository is None:
            return
        data = repository.served.get(path, repository.files[path])
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").rstrip("-"))
        self.send_response(206 if start else 200)
        self.send_header("ETag", f'"{repository.digest(path) or hashlib.sha1(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", repository.commit)
        self.send_header("Content-Length", str(len(data) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        if self.command == "GET":
            self._send_body(repository, path, data[start:])

    def _send_body(self, repository: Repository, path: str, data: bytes) -> None:
        if path in repository.cut_once:
            repository.cut_once.remove(path)
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True
        else:
            self.wfile.write(data)

    def _repository(self, name: str, revision: str) -> Repository | None:
        repository = self.hub.repositories.get(name)
        if repository is None:
            self._refuse(404, "RepoNotFound")
        elif repository.refusal:
            self._refuse(*repository.refusal)
        elif revision not in ("main", repository.commit):
            self._refuse(404, "RevisionNotFound")
        else:
            return repository
        return None

    def _refuse(self, status: int, code: str | None) -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send_json(self, value: Any) -> None:
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _sibling(repository: Repository, path: str) -> dict[str, Any]:
    digest, size = repository.digest(path), repository.size(path)
    lfs = {"lfs": {"sha256": digest, "size": size, "pointerSize": 134}} if digest else {}
    return {"rfilename": path, "size": size, "blobId": "0" * 40} | lfs


def _tree_entry(repository: Repository, path: str) -> dict[str, Any]:
    digest, size = repository.digest(path), repository.size(path)
    lfs = {"lfs": {"oid": digest, "size": size, "pointerSize": 134}} if digest else {}
    return {"type": "file", "path": path, "size": size, "oid": "0" * 40} | lfs
