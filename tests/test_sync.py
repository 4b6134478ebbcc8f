"To Kaggle and back, with the real client, against the Kaggle of `kaggle_server`: what works, every fault, every lie, and no secret anywhere."
import io
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, clean_clone
from kaggle_server import Kaggle, archive

import rfcx_kit.cli
from rfcx_kit.sync import client, publish

BIN = Path(sys.executable).parent
OLD = {"manifest.csv": b"path\n"}


@pytest.fixture
def kaggle():
    "A Kaggle that is up."
    server = Kaggle().start()
    yield server
    server.stop()


@pytest.fixture
def rfcx(kaggle, tmp_path, monkeypatch, capsys):
    "The command line in this process, signed in at that Kaggle, with short pauses: (status, what it said)."
    home = tmp_path / "home"
    (home / ".kaggle").mkdir(parents=True)
    for name in [n for n in os.environ if n.startswith("KAGGLE")]: monkeypatch.delenv(name)
    for name, value in kaggle.env(home).items(): monkeypatch.setenv(name, value)
    from kaggle.api.kaggle_api_extended import KaggleApi
    monkeypatch.setattr(KaggleApi, "args", ["--local"])
    monkeypatch.setattr(KaggleApi, "config", str(home / ".kaggle/kaggle.json"))
    monkeypatch.setattr(KaggleApi, "config_values", {})
    for module, name, value in ((client, "PAUSE", 0.01), (client, "TRIES", 3), (client, "TIMEOUT", 0.5), (publish, "WAIT", 0.02)): monkeypatch.setattr(module, name, value)
    kaggle.delay = 1.0
    def call(*args):
        status = rfcx_kit.cli.main(["kaggle", *map(str, args)])
        out, err = capsys.readouterr()
        assert kaggle.token not in out + err and kaggle.key not in out + err
        return status, out + err
    return call


@pytest.fixture
def mels(tmp_path) -> Path:
    "A small feature store."
    folder = tmp_path / "mels"
    (folder / "mel-123").mkdir(parents=True)
    (folder / "manifest.csv").write_text("path,species\nmel-123/a.npy,frog\n")
    (folder / "mel-123/config.json").write_text("{}")
    for i in range(25): np.save(folder / f"mel-123/{i}.npy", np.full(40, i, np.float16))
    return folder


def holds(kaggle, folder: Path, name: str = "someone/my-mels"):
    "Kaggle's newest version is what lies in the folder."
    there = {n: d for n, d in kaggle.datasets[name][-1].files.items()}
    assert there == {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def push(rfcx, mels, *more): return rfcx("push-data", mels, "--dataset", "my-mels", "--timeout", "2", *more)


def test_create_then_skip_then_version(kaggle, rfcx, mels):
    assert push(rfcx, mels)[0] == 0
    holds(kaggle, mels)
    assert kaggle.about["someone/my-mels"]["licenseName"] == "other" and kaggle.about["someone/my-mels"]["isPrivate"]
    status, said = push(rfcx, mels)
    assert status == 0 and "nothing was sent" in said and len(kaggle.datasets["someone/my-mels"]) == 1
    (mels / "manifest.csv").write_text("path,species\nmel-123/a.npy,bird\n")
    assert push(rfcx, mels)[0] == 0
    holds(kaggle, mels)
    assert "content:" in kaggle.datasets["someone/my-mels"][1].notes
    status, said = push(rfcx, mels)
    assert "nothing was sent" in said and len(kaggle.datasets["someone/my-mels"]) == 2
    kaggle.datasets["someone/my-mels"][1].files.pop("manifest.csv")  # the notes say it is there, the list does not
    assert push(rfcx, mels)[0] == 0
    holds(kaggle, mels)


def test_waits_until_the_version_before_is_processed(kaggle, rfcx, mels):
    kaggle.datasets["someone/my-mels"] = [publish_old()]
    kaggle.about["someone/my-mels"] = {}
    kaggle.status["someone/my-mels"] = ["BLOBS_RECEIVED", "BLOBS_DECOMPRESSED", "READY"]
    assert push(rfcx, mels)[0] == 0
    holds(kaggle, mels)


def publish_old():
    from kaggle_server import Version
    return Version(dict(OLD))


def test_dry_run_sends_nothing(kaggle, rfcx, mels):
    status, said = push(rfcx, mels, "--dry-run")
    assert status == 0 and "manifest.csv" in said and re.search(r"in 27 files", said) and not kaggle.log


NEVER, ONCE = -1, 1
TROUBLE = {  # what fails -> what the command says
    "403": (("CreateDatasetVersion", 403, NEVER), "still being processed"),
    "429": (("StartBlobUpload", 429, NEVER), "fewer requests"),
    "500": (("CreateDatasetVersion", 500, NEVER), "Kaggle is in trouble"),
    "500 at the start": (("GetDatasetStatus", 500, NEVER), "Kaggle is in trouble"),
    "500 in the list": (("ListDatasetFiles", 500, NEVER), "Kaggle is in trouble"),
    "401": (("GetDatasetStatus", 401, NEVER), "the token is not valid"),
    "refused PUT": (("PUT", 403, NEVER), "did not take the file"),
    "slow PUT": (("PUT", "slow", NEVER), "did not take the file"),
    "dropped PUT": (("PUT", "drop", NEVER), "did not take the file"),
    "slow": (("GetDatasetStatus", "slow", NEVER), "connection failed or broke"),
    "dropped": (("StartBlobUpload", "drop", NEVER), "connection failed or broke"),
    "dropped when done": (("CreateDatasetVersion", "drop-after", ONCE), "connection failed or broke"),
    "status: error": (("CreateDatasetVersion", "error", NEVER), "Kaggle made no version of it"),
    "a file forgotten": (("CreateDatasetVersion", "lose", ONCE), "lacks 1 of 27 files"),
    "no such token": (("IntrospectToken", 404, NEVER), "kaggle.com/settings"),
    "sign in down": (("IntrospectToken", 500, NEVER), "Kaggle is in trouble"),
}


@pytest.mark.parametrize("trouble", TROUBLE)
def test_every_fault_is_a_sentence_and_the_next_run_recovers(kaggle, rfcx, mels, trouble):
    fault, sentence = TROUBLE[trouble]
    kaggle.datasets["someone/my-mels"], kaggle.about["someone/my-mels"], kaggle.status["someone/my-mels"] = [publish_old()], {}, ["READY"]
    kaggle.fault(*fault)
    status, said = push(rfcx, mels)
    assert status == 1 and sentence in said and "Traceback" not in said
    made = len(kaggle.datasets["someone/my-mels"])
    if fault[1] in (401, 403): assert kaggle.count(fault[0]) == 1, "a 4xx is not tried again"
    if fault[:2] == ("CreateDatasetVersion", 500): assert kaggle.count("CreateDatasetVersion") == 1 + client.TRIES
    kaggle.faults.clear()
    status, said = push(rfcx, mels)
    assert status == 0, said
    holds(kaggle, mels)
    if trouble == "dropped when done": assert made == 2 and "nothing was sent" in said, "what had arrived is not sent again"


@pytest.mark.parametrize("states, sentence", [(["FAILED"], "could not process"), (["BLOBS_RECEIVED"], "is not done after")])
def test_never_ready(kaggle, rfcx, mels, states, sentence):
    kaggle.processing = states
    status, said = push(rfcx, mels)
    assert status == 1 and sentence in said
    kaggle.status["someone/my-mels"] = ["READY"]
    status, said = push(rfcx, mels)
    assert status == 0 and "nothing was sent" in said


@pytest.mark.parametrize("fault", [("StartBlobUpload", 429), ("CreateDataset", 500), ("PUT", 503), ("PUT", "drop"), ("GetDatasetStatus", "drop")])
def test_a_fault_that_passes_is_sat_out(kaggle, rfcx, mels, fault):
    kaggle.fault(*fault, times=2 if isinstance(fault[1], int) else 1, **({"Retry_After": "0"} if fault[1] == 429 else {}))
    assert push(rfcx, mels)[0] == 0
    holds(kaggle, mels)


def test_retry_after_is_obeyed(kaggle, rfcx, mels):
    import time
    kaggle.fault("GetDatasetStatus", 429, 1, Retry_After="1")
    start = time.monotonic()
    assert push(rfcx, mels)[0] == 0 and time.monotonic() - start > 1


def test_a_slug_in_use(kaggle, rfcx, mels):
    kaggle.taken.add("my-mels")
    status, said = push(rfcx, mels)
    assert status == 1 and "choose another with --dataset" in said
    assert rfcx("push-data", mels, "--dataset", "my-mels-2", "--timeout", "2")[0] == 0


def test_another_ones_dataset(rfcx, mels):
    status, said = rfcx("push-data", mels, "--dataset", "stranger/my-mels", "--timeout", "2")
    assert status == 1 and "the name before the / must be your own" in said and "as someone" in said


def test_metadata_is_checked_first(kaggle, rfcx, mels):
    for dataset, sentence in (("mels", "6 to 50"), ("My Mels", "small letters")):
        status, said = rfcx("push-data", mels, "--dataset", dataset)
        assert status == 1 and sentence in said and not kaggle.log
    status, said = push(rfcx, mels, "--licence", "Apache 2")
    assert status == 1 and "is not one of CC0-1.0" in said and not kaggle.log


def test_legacy_key(kaggle, rfcx, mels, monkeypatch):
    monkeypatch.delenv("KAGGLE_API_TOKEN")
    status, said = push(rfcx, mels)
    assert status == 1 and "there is no token" in said
    monkeypatch.setenv("KAGGLE_USERNAME", "someone")
    monkeypatch.setenv("KAGGLE_KEY", kaggle.key)
    assert push(rfcx, mels)[0] == 0
    holds(kaggle, mels)


# kernels


@pytest.fixture
def notebook(tmp_path) -> Path:
    path = tmp_path / "infer.ipynb"
    path.write_text(json.dumps({"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
    return path


def test_kernel_there_and_back(kaggle, rfcx, notebook, tmp_path):
    kaggle.datasets["someone/rfcx-kit"] = [publish_old()]
    kaggle.competitions["rfcx"] = {}
    assert rfcx("push-kernel", notebook, "--datasets", '["rfcx-kit"]', "--competitions", '["rfcx"]', "--gpu")[0] == 0
    pushed = kaggle.kernels["someone/rfcx-infer"][0]
    assert pushed["enableInternet"] is False and pushed["enableGpu"] and pushed["isPrivate"] and pushed["datasetDataSources"] == ["someone/rfcx-kit"]
    assert "queued" in rfcx("kernel-status", "rfcx-infer")[1]
    status, said = rfcx("kernel-status", "rfcx-infer", "--wait", "--timeout", "5")
    assert status == 0 and "complete" in said
    kaggle.outputs["someone/rfcx-infer"] = {"submission.csv": b"x" * 1000, "journal/a.json": b"y", "problems.csv": b"z"}
    assert rfcx("fetch-output", "rfcx-infer", tmp_path / "out")[0] == 0
    assert (tmp_path / "out/submission.csv").read_bytes() == b"x" * 1000 and (tmp_path / "out/journal/a.json").exists() and (tmp_path / "out/rfcx-infer.log").read_text() == "it ran"


def test_kernel_faults(kaggle, rfcx, notebook, tmp_path):
    push = ("push-kernel", notebook, "--datasets", '["rfcx-kit"]')
    status, said = rfcx(*push)
    assert status == 1 and "runs without someone/rfcx-kit" in said, "the client would have said: successfully pushed"
    kaggle.datasets["someone/rfcx-kit"] = [publish_old()]
    kaggle.fault("SaveKernel", "error")
    status, said = rfcx(*push)
    assert status == 1 and "did not take the kernel" in said
    status, said = rfcx("push-kernel", notebook)
    assert status == 1 and "dataset_sources" in said
    (notebook.parent / "kernel-metadata.json").write_text(json.dumps(dict(id="someone/my-infer", title="My infer", code_file="infer.ipynb", language="python", kernel_type="notebook", dataset_sources=["someone/rfcx-kit"])))
    status, said = rfcx("push-kernel", notebook.parent)
    assert status == 1 and "turns the internet on" in said
    kaggle.runs, kaggle.failure = ["ERROR"], "CUDA out of memory"
    assert rfcx(*push)[0] == 0
    status, said = rfcx("kernel-status", "rfcx-infer", "--wait")
    assert status == 1 and "CUDA out of memory" in said
    status, said = rfcx("kernel-status", "no-such-kernel")
    assert status == 1 and "Cannot access kernel" in said
    kaggle.outputs["someone/rfcx-infer"] = {"submission.csv": b"x" * 1000}
    for fault in (404, "cut"):
        kaggle.fault("GET", fault, NEVER)
        status, said = rfcx("fetch-output", "rfcx-infer", tmp_path / "out")
        assert status == 1 and not (tmp_path / "out/submission.csv").exists(), "the client would have kept half a file"
    kaggle.faults.clear()
    assert rfcx("fetch-output", "rfcx-infer", tmp_path / "out")[0] == 0
    kaggle.outputs["someone/rfcx-infer"] = {"../escaped.csv": b"x"}
    status, said = rfcx("fetch-output", "rfcx-infer", tmp_path / "out")
    assert status == 1 and "would leave" in said and not (tmp_path / "escaped.csv").exists()


# competitions


@pytest.fixture
def forest(kaggle) -> dict:
    kaggle.competitions["rfcx"] = {"train/a.flac": os.urandom(200_000), "train/b.flac": os.urandom(3_000_000), "test/c.flac": b"c" * 10, "train_tp.csv": b"recording_id\n", "sample_submission.csv": b"recording_id,s0\nc,0\n"}
    return kaggle.competitions["rfcx"]


def test_download(kaggle, rfcx, forest, tmp_path):
    assert "5 to fetch" in rfcx("download", "rfcx", tmp_path / "rfcx", "--dry-run")[1] and kaggle.count("GET") == 0
    assert rfcx("download", "rfcx", tmp_path / "rfcx")[0] == 0
    assert {p.relative_to(tmp_path / "rfcx").as_posix(): p.read_bytes() for p in (tmp_path / "rfcx").rglob("*") if p.is_file()} == forest
    status, said = rfcx("download", "rfcx", tmp_path / "rfcx")
    assert "all there already" in said and kaggle.count("GET") == 1


def test_download_goes_on(kaggle, rfcx, forest, tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules["kaggle.api.kaggle_api_extended"].time, "sleep", lambda s: None)
    kaggle.fault("GET", "cut", NEVER)
    status, said = rfcx("download", "rfcx", tmp_path / "rfcx")
    assert status == 1 and "the same command again" in said
    there = (tmp_path / "rfcx/rfcx.zip").stat().st_size
    assert 0 < there < len(archive(forest))
    kaggle.faults.clear()
    kaggle.log.clear()
    assert rfcx("download", "rfcx", tmp_path / "rfcx")[0] == 0
    assert {"path": "competitions/rfcx.zip", "range": f"bytes={there}-"} in [r for op, r in kaggle.log if op == "GET"]
    assert (tmp_path / "rfcx/train/b.flac").read_bytes() == forest["train/b.flac"]


def test_download_refused_or_damaged(kaggle, rfcx, forest, tmp_path, monkeypatch):
    status, said = rfcx("download", "no-such", tmp_path / "x")
    assert status == 1 and "rules are not accepted" in said
    import kaggle_server
    monkeypatch.setattr(kaggle_server, "archive", lambda files: archive(files).replace(b"cccccccccc", b"cccccxcccc"))
    status, said = rfcx("download", "rfcx", tmp_path / "rfcx")
    assert status == 1 and "came damaged (test/c.flac)" in said and not (tmp_path / "rfcx/test").exists()
    monkeypatch.undo()


def test_submit(kaggle, rfcx, forest, tmp_path):
    run = tmp_path / "first-run"
    run.mkdir()
    (tmp_path / "sample_submission.csv").write_bytes(forest["sample_submission.csv"])
    (run / "environment.json").write_text(json.dumps(dict(corpus=str(tmp_path))))
    (run / "submission.csv").write_text("recording_id,s0\nx,0.5\n")
    status, said = rfcx("submit", run, "--competition", "rfcx")
    assert status == 1 and "1 rows are missing" in said and not kaggle.log
    (run / "submission.csv").write_text("recording_id,s0\nc,0.5\n")
    assert "would be sent" in rfcx("submit", run, "--competition", "rfcx", "--dry-run")[1] and not kaggle.log
    status, said = rfcx("submit", run, "--competition", "rfcx", "--timeout", "5")
    assert status == 0 and "public score: 0.912" in said and kaggle.submissions[0]["message"] == "first-run" and kaggle.submissions[0]["data"] == (run / "submission.csv").read_bytes()
    kaggle.fault("PUT", 403, NEVER)
    status, said = rfcx("submit", run, "--competition", "rfcx")
    assert status == 1 and "no try was used" in said and len(kaggle.submissions) == 1
    kaggle.faults.clear()
    kaggle.scoring = ["ERROR"]
    status, said = rfcx("submit", run, "--competition", "rfcx", "--timeout", "5")
    assert status == 1 and "Row 3 is missing" in said


# the client's lies, and its calls


def real_client(kaggle, home, *args):
    "The client's own command line."
    home.mkdir(exist_ok=True)
    env = {**{k: v for k, v in os.environ.items() if not k.startswith("KAGGLE")}, **kaggle.env(home), "TMPDIR": str(home)}
    return subprocess.run([str(BIN / "kaggle"), *map(str, args)], capture_output=True, text=True, env=env, timeout=600)


@pytest.mark.parametrize("lie", ["status: error", "refused PUT", "folder left out", "slug in use"])
def test_the_client_lies_and_we_do_not(kaggle, rfcx, mels, tmp_path, lie):
    (mels / "dataset-metadata.json").write_text(json.dumps(dict(id="someone/my-mels", title="my mels", licenses=[dict(name="other")])))
    if lie != "slug in use": kaggle.datasets["someone/my-mels"], kaggle.about["someone/my-mels"], kaggle.status["someone/my-mels"] = [publish_old()], {}, ["READY"]
    if lie == "status: error": kaggle.fault("CreateDatasetVersion", "error", NEVER)
    if lie == "refused PUT": kaggle.fault("PUT", 403, NEVER)
    if lie == "slug in use": kaggle.taken.add("my-mels")
    theirs = real_client(kaggle, tmp_path / "client", "datasets", *(["create"] if lie == "slug in use" else ["version", "-m", "new"]), "-p", mels)
    assert theirs.returncode == 0, "the client has learnt to say it: look whether ours is still needed"
    assert "someone/my-mels" not in kaggle.datasets or not any("mel-123" in f for f in kaggle.datasets["someone/my-mels"][-1].files), "and nothing of the folder is there"
    (mels / "dataset-metadata.json").unlink()
    if lie == "refused PUT": assert len(kaggle.datasets["someone/my-mels"][-1].files) == 0, "a version without files was made"
    made, kaggle.status["someone/my-mels"] = len(kaggle.datasets.get("someone/my-mels", [])), ["READY"]
    status, said = push(rfcx, mels)
    if lie == "folder left out": assert status == 0 and holds(kaggle, mels) is None
    else: assert status == 1 and len(kaggle.datasets.get("someone/my-mels", [])) == made


def test_a_failed_upload_leaves_nothing_that_drops_a_file_later(kaggle, rfcx, mels, tmp_path, monkeypatch):
    import tempfile
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    kaggle.fault("PUT", 403, NEVER)
    assert push(rfcx, mels)[0] == 1
    assert not list(tmp_path.rglob("uploads")) and not list(tmp_path.glob("rfcx-*"))


def test_the_client_is_the_one_that_was_studied(kaggle, rfcx, mels, notebook):
    import kaggle as installed
    assert installed.__version__ == "2.2.4", "another client: run these tests, read its changes, then name it here and in settings.ini"
    push(rfcx, mels)
    (mels / "manifest.csv").write_text("path\n")
    push(rfcx, mels)
    calls = [op for op, _ in kaggle.log]
    create = ["IntrospectToken", "GetDatasetStatus", "GetDatasetStatus", "StartBlobUpload", "PUT", "StartBlobUpload", "PUT", "CreateDataset"]
    assert [c for c in calls if c in set(create)][: len(create)] == create
    request = next(r for op, r in kaggle.log if op == "CreateDatasetVersion")
    assert set(request) == {"ownerSlug", "datasetSlug", "body"} and {"versionNotes", "files"} <= set(request["body"]) and set(request["body"]["files"][0]) == {"token"}
    started = next(r for op, r in kaggle.log if op == "StartBlobUpload")
    assert set(started) == {"type", "name", "contentLength", "lastModifiedEpochSeconds"}


# secrets


def test_no_secret_anywhere(kaggle, tmp_path, mels):
    "Planted in every place that a push could take it from, and looked for in everything that a push leaves."
    home, run = tmp_path / "home", tmp_path / "run"
    (home / ".kaggle").mkdir(parents=True)
    planted = json.dumps({"username": "someone", "key": kaggle.key})
    (home / ".kaggle/kaggle.json").write_text(planted)
    (home / ".kaggle/kaggle.json").chmod(0o600)
    clone = clean_clone(tmp_path / "clone")
    (run / "fold0/stage1").mkdir(parents=True)
    for place in (run, mels, mels / "mel-123", clone, clone / "rfcx_kit", clone / "rfcx_kit/recipes"):
        for name in ("kaggle.json", ".env", "access_token", ".kaggle.yaml", "my.key"): (place / name).write_text(planted + kaggle.token)
    (run / "recipe.yaml").write_text("seed: 1\n")
    (run / "fold0/stage1/model.pt").write_bytes(b"weights")
    env = {**{k: v for k, v in os.environ.items() if not k.startswith("KAGGLE")}, **kaggle.env(home), "KAGGLE_USERNAME": "someone", "KAGGLE_KEY": kaggle.key,
           "VERBOSE": "1", "RFCX_TRACEBACK": "1", "TMPDIR": str(tmp_path / "tmp"), "PYTHONPATH": str(ROOT)}
    (tmp_path / "tmp").mkdir()
    short = "import sys; from rfcx_kit.sync import client, publish; client.PAUSE, client.TRIES, publish.WAIT = .01, 1, .02; from rfcx_kit.cli import main; sys.exit(main(sys.argv[1:]))"
    def rfcx(*args): return subprocess.run([sys.executable, "-c", short, "kaggle", *map(str, args)], capture_output=True, text=True, env=env, cwd=clone)
    said = [rfcx("push-library"), rfcx("push-models", run, "--dataset", "my-models"), rfcx("push-data", mels, "--dataset", "my-mels")]
    assert [d.returncode for d in said] == [0, 0, 0], said[0].stderr + said[1].stderr + said[2].stderr
    (mels / "notes.txt").write_text(f"my login is {kaggle.key}")
    said.append(rfcx("push-data", mels, "--dataset", "my-mels"))
    assert said[-1].returncode == 1 and "notes.txt holds a Kaggle token or key" in said[-1].stderr
    (mels / "notes.txt").unlink()
    kaggle.fault("GetDatasetStatus", 500, NEVER)
    said.append(rfcx("push-data", mels, "--dataset", "my-mels"))
    assert said[-1].returncode == 1
    left = [d.stdout + d.stderr for d in said] + [p.read_text(errors="ignore") for p in (tmp_path / "tmp").rglob("*") if p.is_file()] + [repr(kaggle.log)]
    sent = {name: data for versions in kaggle.datasets.values() for v in versions for name, data in v.files.items()}
    wheel = next(data for name, data in sent.items() if name.endswith(".whl"))
    sent |= {f"wheel/{n}": zipfile.ZipFile(io.BytesIO(wheel)).read(n) for n in zipfile.ZipFile(io.BytesIO(wheel)).namelist()}
    import base64
    for secret in (kaggle.token, kaggle.key, base64.b64encode(f"someone:{kaggle.key}".encode()).decode()):
        assert not any(secret in text for text in left)
        assert not [name for name, data in sent.items() if secret.encode() in data]
    assert not [n for n in sent if re.search(r"kaggle\.json|\.env|access_token|\.key|pyc", n)]
    assert {"rfcx_kit/__init__.py", "rfcx_kit/cli.py", "rfcx_kit/recipes/demo.yaml", "VERSION", "LICENSE"} <= set(kaggle.datasets["someone/rfcx-kit"][0].files)
    assert set(kaggle.datasets["someone/my-models"][0].files) == {"fold0/stage1/model.pt", "recipe.yaml", "VERSION"}


# the library, and wheels


def tiny_wheel(folder: Path, name: str, needs: str = "") -> Path:
    "A wheel of an almost empty package."
    path = folder / f"{name}-1.0-py3-none-any.whl"
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as z:
        z.writestr(f"{name}.py", "here = True\n")
        z.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n" + (f"Requires-Dist: {needs}\n" if needs else ""))
        z.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        z.writestr(f"{info}/RECORD", "")
    return path


def test_the_library_travels_with_its_recipes_and_priors(tmp_path):
    parcel = publish.library_parcel(ROOT, tmp_path)
    data = {p.relative_to(ROOT).as_posix() for p in (ROOT / "rfcx_kit").rglob("*") if p.suffix in (".yaml", ".csv")}
    assert any("clips/" in n for n in data) and any("priors/" in n for n in data)
    assert data <= set(parcel.files)
    wheel, = (p for n, p in parcel.files.items() if n.endswith(".whl"))
    assert data <= set(zipfile.ZipFile(wheel).namelist())


def test_wheels_suffice_without_an_index(tmp_path, monkeypatch):
    shop = tmp_path / "shop"
    shop.mkdir()
    tiny_wheel(shop, "barkloud", "meowsoft")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shop))
    with pytest.raises(ValueError, match="meowsoft"): publish.fetch_wheels(["barkloud"], tmp_path / "none")
    tiny_wheel(shop, "meowsoft")
    publish.fetch_wheels(["barkloud"], tmp_path / "wheels")
    assert sorted(p.name for p in (tmp_path / "wheels").iterdir()) == ["barkloud-1.0-py3-none-any.whl", "meowsoft-1.0-py3-none-any.whl"]
    monkeypatch.delenv("PIP_FIND_LINKS")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "clean")], check=True)
    python = tmp_path / "clean/bin/python"
    subprocess.run([sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-index", "--find-links", str(tmp_path / "wheels"), "barkloud"], check=True)
    assert subprocess.run([str(python), "-c", "import barkloud, meowsoft"]).returncode == 0
