"""A Kaggle on this machine, for the calls that kaggle 2.2.4 makes when it publishes, runs kernels, downloads and submits.

    server = Kaggle(); server.start()
    subprocess.run([...], env=server.env(home))      # the real client then talks to it
    server.fault("CreateDatasetVersion", 500, times=2)
    server.datasets["someone/rfcx-kit"][-1].files    # what it holds: path -> bytes

The client posts JSON to /api/v1/<service>/<Operation>; files go by PUT to an address that StartBlobUpload gives, and come by GET. A fault stands for an
operation's name ("PUT" and "GET" for the files): a number is an HTTP status, and there are the words of `FAULTS`. As a module it serves until it is stopped:
`python tests/kaggle_server.py --port 8899 --fault PUT:403:1`."""
import argparse
import base64
import io
import json
import secrets
import threading
import time
import zipfile
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

FAULTS = {
    "drop": "the connection is closed before anything is done",
    "drop-after": "the connection is closed when all is done, before the answer",
    "cut": "half of the body comes, then the connection is closed",
    "slow": "the answer comes after `delay` seconds",
    "error": "status 200, and `status: error` in the answer",
    "lose": "status 200, but the file is forgotten",
}


@dataclass
class Version:
    "A version of a dataset: its files by path, and its notes."
    files: dict[str, bytes]
    notes: str = ""


@dataclass
class Kaggle:
    "The state of a Kaggle, open to be looked at, and the server in front of it."
    user: str = "someone"
    token: str = "kgat-of-the-rehearsal-0001"  # of KAGGLE_API_TOKEN
    key: str = "key-of-the-rehearsal-0002"  # of KAGGLE_KEY
    delay: float = 3.0  # s, of the fault "slow"
    processing: list[str] = field(default_factory=lambda: ["BLOBS_RECEIVED", "READY"])  # what a new version's status goes through
    datasets: dict[str, list[Version]] = field(default_factory=dict)  # owner/slug -> versions
    about: dict[str, dict] = field(default_factory=dict)  # owner/slug -> the request that made it
    taken: set[str] = field(default_factory=set)  # slugs that no new dataset may have
    status: dict[str, list[str]] = field(default_factory=dict)  # owner/slug -> statuses to come, the last stays
    kernels: dict[str, list[dict]] = field(default_factory=dict)  # owner/slug -> pushed versions
    outputs: dict[str, dict[str, bytes]] = field(default_factory=dict)  # owner/slug of a kernel -> its output
    runs: list[str] = field(default_factory=lambda: ["QUEUED", "RUNNING", "COMPLETE"])  # what a pushed kernel goes through
    failure: str = ""  # a kernel's
    competitions: dict[str, dict[str, bytes]] = field(default_factory=dict)  # slug -> files
    submissions: list[dict] = field(default_factory=list)
    scoring: list[str] = field(default_factory=lambda: ["PENDING", "COMPLETE"])  # what a submission goes through
    blobs: dict[str, dict] = field(default_factory=dict)  # upload token -> name, data
    log: list[tuple[str, dict]] = field(default_factory=list)  # operations and their requests, in order
    faults: dict[str, list] = field(default_factory=dict)  # operation -> [what, times left, headers]

    def start(self, port: int = 0) -> "Kaggle":
        self.server = ThreadingHTTPServer(("127.0.0.1", port), type("Bound", (Handler,), {"kaggle": self}))
        self.server.daemon_threads = True
        self.base = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def stop(self):
        self.server.shutdown()
        self.server.server_close()

    def env(self, home) -> dict[str, str]:
        "What the environment of a process must say, so that its client talks to this Kaggle, signed in."
        return {"KAGGLE_API_ENVIRONMENT": "LOCALHOST", "HTTP_PROXY": self.base, "NO_PROXY": "", "no_proxy": "", "HOME": str(home), "KAGGLE_API_TOKEN": self.token}

    def fault(self, operation: str, what: int | str, times: int = 1, **headers: str):
        "From now on the operation fails so, `times` times (-1: always)."
        assert isinstance(what, int) or what in FAULTS, what
        self.faults[operation] = [what, times, headers]

    def count(self, operation: str) -> int:
        "How often an operation was asked for."
        return sum(op == operation for op, _ in self.log)

    def take_fault(self, operation: str):
        what, times, headers = self.faults.get(operation, (None, 0, {}))
        if times: self.faults[operation][1] -= 1
        return (what, headers) if times else (None, {})


class Refused(Exception):
    "An answer of Kaggle's that is an error."
    def __init__(self, code: int, message: str): self.code, self.message = code, message


class Handler(BaseHTTPRequestHandler):
    "One request: who asks, which fault, what is done, the answer."
    protocol_version = "HTTP/1.1"
    kaggle: Kaggle

    def log_message(self, *args): pass

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def answer(self, content: dict | bytes, code: int = 200, **headers: str):
        raw = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(code)
        for name, value in {"Content_Type": "application/octet-stream" if isinstance(content, bytes) else "application/json", "Content_Length": str(len(raw)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        cut = len(raw) // 2 if self.what == "cut" else len(raw)
        if self.command != "HEAD": self.wfile.write(raw[:cut])
        if self.what == "cut": self.hang_up()

    def hang_up(self):
        self.close_connection = True
        self.connection.close()

    def handle_with(self, operation: str, request: dict, work):
        "Log, fault, work, answer."
        self.kaggle.log.append((operation, request))
        self.what, headers = self.kaggle.take_fault(operation)
        if self.what == "drop": return self.hang_up()
        if self.what == "slow": time.sleep(self.kaggle.delay)
        if isinstance(self.what, int): return self.answer({"code": self.what, "message": f"{operation} was refused (a rehearsal)"}, self.what, **headers)
        try: done = work() # content, or (content, status, headers)
        except Refused as refused: done = {"code": refused.code, "message": refused.message}, refused.code, {}
        content, code, headers = done if isinstance(done, tuple) else (done, 200, {})
        if self.what == "drop-after": return self.hang_up()
        self.answer(content, code, **headers)

    def do_POST(self):
        request = json.loads(self.body() or b"{}")
        operation = urlsplit(self.path).path.rsplit("/", 1)[-1]
        self.handle_with(operation, {k: v for k, v in request.items() if operation != "IntrospectToken"}, lambda: self.call(operation, request))

    def call(self, operation: str, request: dict):
        if operation == "IntrospectToken":
            return {"active": True, "username": self.kaggle.user, "userId": 1} if request.get("token") == self.kaggle.token else ({"code": 404, "message": "Not found"}, 404, {})
        self.check_token()
        if not hasattr(self, operation): raise Refused(404, f"no such operation: {operation}")
        return getattr(self, operation)(request)

    def check_token(self):
        basic = base64.b64encode(f"{self.kaggle.user}:{self.kaggle.key}".encode()).decode()
        if self.headers.get("Authorization") not in (f"Bearer {self.kaggle.token}", f"Basic {basic}"): raise Refused(401, "Unauthenticated")

    def mine(self, owner: str):
        if owner != self.kaggle.user: raise Refused(403, "Permission was denied")

    # files up and down

    def StartBlobUpload(self, request):
        token = secrets.token_hex(8)
        self.kaggle.blobs[token] = {"name": request.get("name") or request.get("fileName"), "data": None}
        return {"token": token, "createUrl": f"{self.kaggle.base}/upload/{token}"}

    StartSubmissionUpload = StartBlobUpload

    def do_PUT(self):
        data, token = self.body(), urlsplit(self.path).path.rsplit("/", 1)[-1]
        self.handle_with("PUT", {"token": token, "bytes": len(data)}, lambda: self.keep(token, data))

    def keep(self, token: str, data: bytes):
        if token not in self.kaggle.blobs: raise Refused(404, "no such upload")
        if (self.headers.get("Content-Range") or "").startswith("bytes */"):  # a client that resumes asks what has arrived
            return ({}, 308, {}) if self.kaggle.blobs[token]["data"] is None else {}
        self.kaggle.blobs[token]["data"] = data
        return {}

    def do_GET(self):
        kind, _, name = unquote(urlsplit(self.path).path).lstrip("/").partition("/")
        self.handle_with("GET", {"path": f"{kind}/{name}", "range": self.headers.get("Range")}, lambda: self.give(kind, name))

    def give(self, kind: str, name: str):
        owner, _, path = name.partition("/")
        if kind == "competitions": data = archive(self.kaggle.competitions[owner.removesuffix(".zip")])
        else: data = self.kaggle.outputs["/".join(name.split("/")[:2])]["/".join(name.split("/")[2:])]
        about = {"Accept_Ranges": "bytes", "ETag": f'"{hash(data)}"', "Last_Modified": "Sun, 01 Nov 2026 00:00:00 GMT"}
        start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-")) if self.headers.get("Range") else 0
        return (data[start:], 206 if start else 200, about)

    # datasets

    def get(self, request) -> tuple[str, list[Version]]:
        name = f"{request.get('ownerSlug')}/{request.get('datasetSlug')}"
        if name not in self.kaggle.datasets: raise Refused(403, "Permission 'datasets.get' was denied")
        return name, self.kaggle.datasets[name]

    def GetDatasetStatus(self, request):
        name, _ = self.get(request)
        queue = self.kaggle.status[name]
        return {"status": queue.pop(0) if len(queue) > 1 else queue[0]}

    def GetDataset(self, request):
        name, versions = self.get(request)
        notes = [{"versionNumber": i + 1, "versionNotes": v.notes} for i, v in enumerate(versions)]
        return {"ref": name, "currentVersionNumber": len(versions), "versions": notes[::-1], "description": self.kaggle.about[name].get("description", "")}

    def ListDatasetFiles(self, request):
        _, versions = self.get(request)
        files, start, size = sorted(versions[-1].files.items()), int(request.get("pageToken") or 0), min(int(request.get("pageSize") or 20), 20)
        page = [{"name": n, "totalBytes": len(d)} for n, d in files[start:start + size]]
        return {"datasetFiles": page, "nextPageToken": str(start + size) if start + size < len(files) else ""}

    def CreateDataset(self, request):
        name = f"{request['ownerSlug']}/{request['slug']}"
        self.mine(request["ownerSlug"])
        if request["slug"] in self.kaggle.taken or name in self.kaggle.datasets:
            return {"status": "error", "error": "The requested slug is already in use by a dataset.", "ref": "", "url": "", "invalidTags": []}
        return self.version(name, request, "Initial release")

    def CreateDatasetVersion(self, request):
        self.mine(request["ownerSlug"])
        name, _ = self.get(request)
        if self.kaggle.status[name][0] not in ("READY", "FAILED"): raise Refused(403, "Permission 'datasets.update' was denied")
        return self.version(name, request["body"], request["body"].get("versionNotes", ""))

    def version(self, name: str, body: dict, notes: str):
        if self.what == "error": return {"status": "error", "error": "The dataset is being processed, try again later", "ref": "", "url": "", "invalidTags": []}
        blobs = [self.kaggle.blobs.get(f["token"], {}) for f in body.get("files") or []]
        if any(b.get("data") is None for b in blobs): raise Refused(400, "unknown or unfinished upload")
        files = {path: data for b in blobs for path, data in unpacked(b["name"], b["data"]).items()}
        if self.what == "lose": files.pop(sorted(files)[0])
        self.kaggle.datasets.setdefault(name, []).append(Version(files, notes))
        self.kaggle.about[name] = body
        self.kaggle.status[name] = list(self.kaggle.processing)
        return {"status": "ok", "ref": f"/{name}", "url": f"{self.kaggle.base}/{name}", "error": "", "invalidTags": []}

    # kernels

    def SaveKernel(self, request):
        name = request["slug"]
        self.mine(name.split("/")[0])
        if self.what == "error": return {"ref": "", "url": "", "error": "Notebook could not be saved"}
        self.kaggle.kernels.setdefault(name, []).append(request)
        self.kaggle.status[name] = list(self.kaggle.runs)
        known = {*self.kaggle.datasets, *self.kaggle.competitions, *self.kaggle.kernels}
        unknown = lambda key: [s for s in request.get(key) or [] if s not in known]
        return {"ref": f"/code/{name}", "url": f"{self.kaggle.base}/code/{name}", "versionNumber": len(self.kaggle.kernels[name]), "invalidDatasetSources": unknown("datasetDataSources"),
                "invalidCompetitionSources": unknown("competitionDataSources"), "invalidKernelSources": unknown("kernelDataSources")}

    def GetKernelSessionStatus(self, request):
        name = f"{request['userName']}/{request['kernelSlug']}"
        if name not in self.kaggle.kernels: raise Refused(403, "Permission 'kernels.get' was denied")
        queue = self.kaggle.status[name]
        state = queue.pop(0) if len(queue) > 1 else queue[0]
        return {"status": state, **({"failureMessage": self.kaggle.failure} if state == "ERROR" else {})}

    def ListKernelSessionOutput(self, request):
        name = f"{request['userName']}/{request['kernelSlug']}"
        if name not in self.kaggle.outputs: raise Refused(403, "Permission 'kernels.get' was denied")
        files, start = sorted(self.kaggle.outputs[name]), int(request.get("pageToken") or 0)
        page = [{"fileName": f, "url": f"{self.kaggle.base}/output/{name}/{f}"} for f in files[start:start + 2]]
        return {"files": page, "log": "it ran", "nextPageToken": str(start + 2) if start + 2 < len(files) else ""}

    # competitions

    def files(self, request) -> dict[str, bytes]:
        if request["competitionName"] not in self.kaggle.competitions: raise Refused(403, "You must accept this competition's rules")
        return self.kaggle.competitions[request["competitionName"]]

    def ListDataFiles(self, request):
        files, start = sorted(self.files(request).items()), int(request.get("pageToken") or 0)
        page = [{"name": n, "totalBytes": len(d)} for n, d in files[start:start + 3]]
        return {"files": page, "nextPageToken": str(start + 3) if start + 3 < len(files) else ""}

    def DownloadDataFiles(self, request):
        self.files(request)
        return {}, 302, {"Location": f"{self.kaggle.base}/competitions/{request['competitionName']}.zip"}

    def CreateSubmission(self, request):
        self.files(request)
        blob = self.kaggle.blobs.get(request["blobFileTokens"], {})
        if blob.get("data") is None: raise Refused(400, "no such upload")
        self.kaggle.submissions.append({"data": blob["data"], "message": request.get("submissionDescription", ""), "states": list(self.kaggle.scoring)})
        return {"message": "Successfully submitted", "ref": len(self.kaggle.submissions)}

    def ListSubmissions(self, request):
        rows = []
        for i, s in enumerate(self.kaggle.submissions):
            state = s["states"].pop(0) if len(s["states"]) > 1 else s["states"][0]
            rows.append({"ref": i + 1, "description": s["message"], "status": state, "publicScore": "0.912" if state == "COMPLETE" else "", "errorDescription": "Row 3 is missing" if state == "ERROR" else ""})
        return {"submissions": rows[::-1]}

    def GetSubmissionLimits(self, request): return {"numAllowedNow": 4}


def unpacked(name: str, data: bytes) -> dict[str, bytes]:
    "What Kaggle makes of an uploaded file: NAME.zip becomes the folder NAME."
    if not name.endswith(".zip"): return {name: data}
    with zipfile.ZipFile(io.BytesIO(data)) as z: return {f"{name[:-4]}/{f}": z.read(f) for f in z.namelist() if not f.endswith("/")}


def archive(files: dict[str, bytes]) -> bytes:
    "The files as one zip, the same bytes every time."
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as z:
        for name, data in sorted(files.items()): z.writestr(zipfile.ZipInfo(name), data)
    return made.getvalue()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--port", type=int, default=8899)
    parser.add_argument("--fault", action="append", default=[], help="OPERATION:STATUS-OR-WORD:TIMES")
    given = parser.parse_args()
    kaggle = Kaggle().start(given.port)
    for fault in given.fault:
        operation, what, times = fault.split(":")
        kaggle.fault(operation, int(what) if what.isdigit() else what, int(times))
    print("\n".join(f"export {k}={v}" for k, v in kaggle.env("$(mktemp -d)").items()), flush=True)
    threading.Event().wait()
