"""A model hub on this machine: the few answers of Hugging Face's that its client needs to load a model.

with Hub() as hub:
    hub.publish("course/tiny", folder)
    ...  # a child process with HF_ENDPOINT=hub.endpoint

A second server, on another port, plays the storage that large files are redirected to. Faults are switched on for a
repository and a kind of request, and off again by `repair`, or by a client that asks for /repair/owner/name.
"""

import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

LARGE = (".safetensors",)  # stored as large files: named by their SHA-256, and served by the storage


@dataclass
class Fault:
    """What goes wrong with the requests whose method and address hold `where`.

    kind: a status, with `code` as the hub's own name for it; "cut", the connection ends half way; "short", half of the
    file comes and claims to be whole.
    times: how often; None for always.
    """

    where: str
    kind: int | str
    code: str | None = None
    times: int | None = None


@dataclass
class Hub:
    repositories: dict[str, dict[str, dict[str, bytes]]] = field(
        default_factory=dict
    )  # id -> commit -> path -> content
    heads: dict[str, str] = field(default_factory=dict)  # id -> the commit of its branch main
    faults: dict[str, list[Fault]] = field(default_factory=dict)  # id -> what goes wrong
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)  # method, address, headers

    def publish(self, name: str, files: Path | dict[str, bytes], *, commit: str | None = None) -> str:
        """Add a commit to a repository, which becomes its main branch, and return its hash."""
        if isinstance(files, Path):
            files = {path.relative_to(files).as_posix(): path.read_bytes() for path in files.rglob("*.*")}
        commit = commit or hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        self.repositories.setdefault(name, {})[commit] = files
        self.heads[name] = commit
        return commit

    def repair(self, name: str) -> None:
        self.faults.pop(name, None)

    def __enter__(self) -> "Hub":
        self.servers = [ThreadingHTTPServer(("127.0.0.1", 0), self._handler(kind)) for kind in (_Pages, _Storage)]
        self.endpoint, self.storage = (f"http://127.0.0.1:{server.server_port}" for server in self.servers)
        for server in self.servers:
            server.daemon_threads = True
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for server in self.servers:
            server.shutdown()
            server.server_close()

    def _handler(self, kind: type) -> type:
        return type(kind.__name__, (kind,), {"hub": self})


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.hub.requests.append((self.command, self.path, {name.lower(): x for name, x in self.headers.items()}))
        self.parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        self.answer()

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        pass

    def fault(self, name: str, *kinds: type) -> Fault | None:
        """The first fault of these kinds that this request meets, counted as having happened."""
        for fault in self.hub.faults.get(name, []):
            if isinstance(fault.kind, kinds) and fault.where in f"{self.command} {self.path}" and fault.times != 0:
                if fault.times is not None:
                    fault.times -= 1
                return fault
        return None

    def refuse(self, status: int, code: str | None = None) -> None:
        self.send({"X-Error-Code": code, "X-Error-Message": f"The stand-in hub says {status}."} if code else {}, status)

    def send(self, headers: dict[str, str], status: int = 200, content: bytes = b"", *, cut: bool = False) -> None:
        self.send_response(status)
        for header, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(header, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content[: len(content) // 2] if cut else content)
        if cut:
            self.close_connection = True

    def send_file(self, name: str, content: bytes, headers: dict[str, str]) -> None:
        """A file, or the rest of it that a Range asks for, with what goes wrong on the way."""
        fault = self.fault(name, str) if self.command == "GET" else None
        if fault and fault.kind == "short":
            content = content[: len(content) // 2]
        status, wanted = 200, self.headers.get("Range")
        if wanted:
            start = int(wanted.removeprefix("bytes=").split("-")[0])
            headers = {**headers, "Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
            status, content = 206, content[start:]
        self.send(headers, status, content, cut=bool(fault) and fault.kind == "cut")


class _Storage(_Handler):
    """Large files, at /owner/name/commit/path: no business of the hub's tokens."""

    def answer(self) -> None:
        owner, short, commit, *path = self.parts
        name = f"{owner}/{short}"
        fault = self.fault(name, int)
        if fault:
            return self.refuse(fault.kind, fault.code)
        content = self.hub.repositories[name][commit]["/".join(path)]
        self.send_file(name, content, {"ETag": f'"{sha256(content)}"', "Accept-Ranges": "bytes"})


class _Pages(_Handler):
    """The hub itself: what a repository holds, and where its files are."""

    def answer(self) -> None:
        if self.parts[0] == "repair":
            self.hub.repair("/".join(self.parts[1:]))
            return self.send({})
        api = self.parts[:2] == ["api", "models"]
        name = "/".join(self.parts[2:4] if api else self.parts[:2])
        kind, revision, *path = self.parts[4 if api else 2 :] or ["revision", "main"]
        fault = self.fault(name, int)
        if fault:
            return self.refuse(fault.kind, fault.code)
        if name not in self.hub.repositories:
            return self.refuse(404, "RepoNotFound")
        commit = self.hub.heads[name] if revision == "main" else revision
        files = self.hub.repositories[name].get(commit)
        if files is None:
            return self.refuse(404, "RevisionNotFound")
        if kind == "revision":
            return self.send_json({"id": name, "sha": commit, "siblings": [{"rfilename": path} for path in files]})
        if kind == "tree":
            return self.send_json([_entry(path, content) for path, content in files.items()])
        content = files.get("/".join(path))
        if content is None:
            self.send({"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit}, 404)
        elif path[-1].endswith(LARGE):
            self.send(
                {
                    "Location": f"{self.hub.storage}/{name}/{commit}/{'/'.join(path)}",
                    "X-Repo-Commit": commit,
                    "X-Linked-Size": str(len(content)),
                    "X-Linked-ETag": f'"{sha256(content)}"',
                },
                302,
            )
        else:
            self.send_file(name, content, {"ETag": f'"{git_hash(content)}"', "X-Repo-Commit": commit})

    def send_json(self, x: object) -> None:
        self.send({"Content-Type": "application/json"}, content=json.dumps(x).encode())


def _entry(path: str, content: bytes) -> dict:
    entry = {"type": "file", "path": path, "size": len(content), "oid": git_hash(content)}
    if path.endswith(LARGE):
        entry["lfs"] = {"oid": sha256(content), "size": len(content), "pointerSize": 134}
    return entry
