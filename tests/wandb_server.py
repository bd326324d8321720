"""A W&B server on loopback: enough of its protocol to see what a client really sends.

It speaks HTTP, so it can refuse, delay and fail as a real one does. What is sent is kept: `runs` by
id, each with its history lines, and `artifacts` by name.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import json
import re
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ENTITY = "team"
_FILES = {"wandb-history.jsonl": "history", "wandb-events.jsonl": "events"}


class WandbServer:
    """`fault`, if set, is asked about every request's path: it may return a status, or sleep."""

    def __init__(self) -> None:
        self.runs: dict[str, dict[str, Any]] = {}
        self.artifacts: dict[str, dict[str, Any]] = {}
        self.views: dict[str, dict[str, Any]] = {}
        self.requests: list[str] = []
        self.uploads: dict[str, bytes] = {}
        self.fault: Callable[[str], int | None] | None = None
        self.keys: set[str] | None = None
        self._lock = threading.Lock()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._http.daemon_threads = True
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()

    def rows(self, run: str) -> list[dict[str, Any]]:
        """A run's history in the order of its lines."""
        lines = self.runs[run]["history"]
        return [json.loads(lines[number]) for number in sorted(lines)]

    def answer(self, path: str, body: bytes) -> Any:
        with self._lock:
            if path.startswith("/graphql"):
                asked = json.loads(body)
                name = re.search(r"(?:query|mutation)\s+(\w+)", asked["query"])
                assert name is not None
                self.requests.append(name[1])
                given = asked.get("variables") or {}
                return {"data": self._graphql(name[1], {**given, **(given.get("input") or {})})}
            if stream := re.match(r"/files/[^/]+/[^/]+/([^/]+)/file_stream", path):
                self.requests.append("file_stream")
                self._stream(self._run(stream[1]), json.loads(body))
                return {"exitcode": None, "limits": {}}
            if path.startswith("/upload/"):
                self.uploads[path.removeprefix("/upload/")] = body
            return {}

    def _run(self, name: str) -> dict[str, Any]:
        fresh = {
            "name": name,
            "history": {},
            "events": {},
            "summary": {},
            "config": {},
            "about": {"project": "?"},
        }
        return self.runs.setdefault(name, {**fresh, "state": "running", "upserts": 0})

    def _stream(self, run: dict[str, Any], sent: Mapping[str, Any]) -> None:
        for name, file in (sent.get("files") or {}).items():
            if name == "wandb-summary.json":
                run["summary"] = json.loads(file["content"][-1])
            elif name in _FILES:
                for number, line in enumerate(file["content"], start=file["offset"]):
                    run[_FILES[name]][number] = line
        if sent.get("complete"):
            run["state"] = "finished" if sent.get("exitcode") == 0 else "failed"

    def _graphql(self, name: str, given: Mapping[str, Any]) -> Any:
        answer = getattr(self, f"_{name}", None)
        return answer(given) if answer else {}

    def _bucket(self, run: Mapping[str, Any]) -> dict[str, Any]:
        history, about = run["history"], run["about"]
        return {
            "id": run["name"],
            "name": run["name"],
            "displayName": about.get("displayName"),
            "description": None,
            "sweepName": None,
            "notes": None,
            "commit": None,
            "readOnly": False,
            "projectId": "1",
            "config": json.dumps(run["config"]),
            "tags": about.get("tags") or [],
            "group": about.get("groupName"),
            "jobType": about.get("jobType"),
            "state": run["state"],
            "createdAt": "2026-01-01T00:00:00Z",
            "heartbeatAt": "2026-01-01T00:00:00Z",
            "user": {"name": ENTITY, "username": ENTITY},
            "summaryMetrics": json.dumps(run["summary"]),
            "logLineCount": 0,
            "historyLineCount": len(history),
            "eventsLineCount": len(run["events"]),
            "historyTail": json.dumps([history[max(history)]] if history else []),
            "eventsTail": "[]",
            "wandbConfig": json.dumps({"t": 1}) if run["upserts"] else None,
            "project": {"id": "1", "name": about["project"], "entity": {"id": "1", "name": ENTITY}},
        }

    def _Viewer(self, _: Any) -> Any:  # noqa: N802
        teams = {"edges": [{"node": {"name": ENTITY}}]}
        who = {"id": "1", "entity": ENTITY, "username": ENTITY, "email": "", "flags": "{}"}
        return {"viewer": {**who, "teams": teams}}

    _GetDefaultEntity = _Viewer

    def _RunResumeStatus(self, given: Mapping[str, Any]) -> Any:  # noqa: N802
        run = self.runs.get(given["name"])
        place = {"id": "1", "name": given["project"], "entity": {"id": "1", "name": ENTITY}}
        return {"model": {**place, "bucket": self._bucket(run) if run else None}}

    def _UpsertBucket(self, given: Mapping[str, Any]) -> Any:  # noqa: N802
        run = self._run(given.get("name") or given["id"])
        run["upserts"] += 1
        run["state"] = "running"
        if given.get("config"):
            run["config"] = json.loads(given["config"])
        about = ("displayName", "groupName", "jobType", "tags", "project")
        run["about"] |= {key: given[key] for key in about if given.get(key) is not None}
        inserted = run["upserts"] == 1
        return {"upsertBucket": {"bucket": self._bucket(run), "inserted": inserted}}

    def _Runs(self, given: Mapping[str, Any]) -> Any:  # noqa: N802
        if not self.runs:
            return {"project": None}
        wanted = json.loads(given["filters"])["name"]["$in"]
        nodes = [self._bucket(run) for name, run in self.runs.items() if name in wanted]
        edges = [{"node": node, "cursor": node["name"]} for node in nodes]
        page = {"endCursor": None, "hasNextPage": False}
        runs = {"edges": edges, "pageInfo": page}
        about = {"internalId": "1", "runCount": len(nodes), "readOnly": False}
        return {"project": {**about, "runs": runs}}

    def _CreateRunFiles(self, given: Mapping[str, Any]) -> Any:  # noqa: N802
        url = f"{self.url}/upload/{given['run']}"
        files = [{"name": name, "uploadUrl": f"{url}/{name}"} for name in given["files"]]
        return {"createRunFiles": {"runID": given["run"], "uploadHeaders": [], "files": files}}

    def _CreateArtifact(self, given: Mapping[str, Any]) -> Any:  # noqa: N802
        name = given["artifactCollectionName"]
        held = self.artifacts.setdefault(name, {"state": "PENDING", "logged": 0, **given})
        held["logged"] += 1
        same = held["digest"] == given["digest"]
        state = held["state"] if same else "PENDING"
        sequence = {"id": name, "latestArtifact": None}
        made = {"id": name, "state": state, "artifactSequence": sequence}
        return {"createArtifact": {"artifact": made}}

    def _ArtifactType(self, _: Any) -> Any:  # noqa: N802
        return {"project": {"artifact": None}}

    def _CreateArtifactManifest(self, given: Mapping[str, Any]) -> Any:  # noqa: N802
        url = f"{self.url}/upload/{given['artifactID']}/manifest"
        file = {"id": "1", "uploadUrl": url, "uploadHeaders": []}
        return {"createArtifactManifest": {"artifactManifest": {"id": "1", "file": file}}}

    def _CreateArtifactFiles(self, given: Mapping[str, Any]) -> Any:  # noqa: N802
        nodes = []
        for file in given["artifactFiles"]:
            place = f"{self.url}/upload/{file['artifactID']}/{file['name']}"
            upload = {"uploadUrl": place, "uploadHeaders": [], "uploadMultipartUrls": None}
            about = {"storagePath": file["name"], "artifact": {"id": file["artifactID"]}}
            nodes.append({"node": {**upload, **about}})
        return {"createArtifactFiles": {"files": {"edges": nodes}}}

    def _CommitArtifact(self, given: Mapping[str, Any]) -> Any:  # noqa: N802
        name = given["artifactID"]
        self.artifacts[name]["state"] = "COMMITTED"
        return {"commitArtifact": {"artifact": {"id": name, "digest": "d"}}}

    def _UpsertView2(self, given: Mapping[str, Any]) -> Any:  # noqa: N802
        name = given.get("id") or f"view{len(self.views)}"
        self.views[name] = dict(given)
        project = {"id": "1", "name": given["projectName"], "entityName": ENTITY}
        about = {key: given.get(key) for key in ("name", "displayName", "description", "spec")}
        return {"upsertView": {"view": {"id": name, "project": project, **about}}}

    _upsertView = _UpsertView2  # noqa: N815

    def _GetProjects(self, _: Any) -> Any:  # noqa: N802
        about = {"id": "1", "name": "lt-sweeps", "entityName": ENTITY, "isBenchmark": False}
        node = {"__typename": "Project", **about, "createdAt": "2026-01-01", "user": None}
        page = {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}
        return {"models": {"pageInfo": page, "edges": [{"node": node}]}}

    def _RunStoppedStatus(self, _: Any) -> Any:  # noqa: N802
        return {"project": {"run": {"stopped": False}}}

    def _ServerFeaturesQuery(self, _: Any) -> Any:  # noqa: N802
        return {"serverInfo": {"features": []}}

    def _ServerInfo(self, _: Any) -> Any:  # noqa: N802
        versions = {"max_cli_version": "99.0.0", "min_cli_version": "0.0.0"}
        latest = {
            "outOfDate": False,
            "latestVersionString": "1",
            "versionOnThisInstanceString": "1",
        }
        return {"serverInfo": {"cliVersionInfo": versions, "latestLocalVersionInfo": latest}}


def _handler(server: WandbServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def handle(self) -> None:
            with contextlib.suppress(ConnectionError):
                super().handle()

        def _respond(self) -> None:
            body = self._body()
            status = server.fault(self.path) if server.fault else None
            if server.keys is not None and self._key() not in server.keys:
                status = 401
            answer = {"error": "as asked"} if status else server.answer(self.path, body)
            content = json.dumps(answer).encode()
            self.send_response(status or 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = _respond  # noqa: N815

        def _key(self) -> str:
            words = self.headers.get("Authorization", "").split()
            given = base64.b64decode(words[1]).decode() if len(words) == 2 else ":"
            return given.split(":", 1)[1]

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
                body = b""
                while size := int(self.rfile.readline().split(b";")[0], 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
            else:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            gzipped = self.headers.get("Content-Encoding") == "gzip"
            return gzip.decompress(body) if gzipped else body

    return Handler
