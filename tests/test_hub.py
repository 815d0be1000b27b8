"""Loading from a hub, with the real client against the stand-in of tests/pipelines/stand_in_hub.py.

Each case ends in the right picture or in one clear sentence, and never in a cache that spoils the next load. All cases
that need the hub run in one child process, because importing the libraries takes longer than all of them together;
each has a repository of its own.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from helpers.hub import explained
from helpers.loading import ARTICLE_MODEL, KNOWN, REVISIONS, ROOT, load_pipeline
from helpers.pictures import generate
from tests.pipelines.full_format import UNSAFE, make_unsafe, save_full
from tests.pipelines.stand_in_hub import Fault, Hub, git_hash, sha256

pytestmark = pytest.mark.slow

SD15 = KNOWN["sd15"]
UNET = "unet/diffusion_pytorch_model.safetensors"
PIECE = 4096  # bytes
NETWORK = ("could not be reached", "load_pipeline('pocket') works offline")

# Runs the commands it is given, and writes what came of each load: ["picture", its hash] or [the error, its sentence].
CLIENT = """
import hashlib, json, os, subprocess, sys, time, urllib.request
from huggingface_hub import constants
from helpers.loading import load_pipeline
from helpers.pictures import generate

wait = time.sleep
time.sleep = lambda seconds: wait(min(seconds, 0.01))  # between two tries it waits 1, 2, 4, 8 and 8 seconds
constants.DOWNLOAD_CHUNK_SIZE = PIECE  # it keeps whole pieces only, of 10 MB, when a connection ends: more than we have

def load(name):
    try:
        picture = generate(load_pipeline(name, device="cpu"), "a fox", steps=2)[0]
    except Exception as error:
        return [type(error).__name__, str(error)]
    return ["picture", hashlib.sha256(picture.tobytes()).hexdigest()]

results = []
for command, value in json.loads(sys.argv[1]):
    if command == "load":
        results.append(load(value))
    elif command == "repair":
        urllib.request.urlopen(os.environ["HF_ENDPOINT"] + "/repair/" + value).close()
    elif command == "remount":
        subprocess.run(["mount", "-o", "remount," + value, os.environ["HF_HOME"]], check=True)
print("RESULTS " + json.dumps(results))
""".replace("PIECE", str(PIECE))

# What goes wrong in the repository course/<name>, what the first load ends in (None: the picture), and words of it.
# After the repair, a second load must end in the picture.
FAULTS = {
    "nothing": ([], None),
    "cut": ([Fault("GET /course/cut", "cut", times=1), Fault("/unet/diffusion", "cut", times=2)], None),
    "no-login": ([Fault("", 401)], ("ValueError", "no model 'course/no-login' that you may read")),
    "gated-no-login": ([Fault("/resolve/", 401, "GatedRepo")], ("PermissionError", "hf auth login")),
    "gated": ([Fault("/resolve/", 403, "GatedRepo")], ("PermissionError", "https://huggingface.co/course/gated")),
    "missing": ([Fault("", 404, "RepoNotFound")], ("ValueError", "no model 'course/missing'")),
    "busy-once": ([Fault("/api/", 500, times=1)], ("ConnectionError", *NETWORK)),
    "busy-once-file": ([Fault("HEAD", 500, times=1)], None),
    "busy-once-storage": ([Fault(f"{UNET}", 500, times=3)], None),
    "busy": ([Fault("", 503)], ("ConnectionError", *NETWORK)),
    "busy-storage": ([Fault("GET /course/busy-storage", 503)], ("ConnectionError", *NETWORK)),
    "short": ([Fault(UNET, "short")], ("ConnectionError", "another size", "load it again")),
}
REFUSED = ("no-index", "pickle", *(f"unsafe-{i}" for i in range(len(UNSAFE))))  # repositories that are never loaded


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Folders of two pipelines, and the hash of a picture of each."""
    folder = tmp_path_factory.mktemp("published")
    for seed in (0, 1):
        save_full(folder / str(seed), seed)
    pictures = [generate(load_pipeline(folder / str(seed), device="cpu"), "a fox", steps=2)[0] for seed in (0, 1)]
    return folder, [hashlib.sha256(picture.tobytes()).hexdigest() for picture in pictures]


def run_client(commands, endpoint, home, *, before=(), **extra):
    environment = {
        **os.environ,
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",  # another protocol, which the stand-in does not speak
        "HF_TOKEN": "hf_secret",
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", ""), str(home / "modules")]),
        **extra,
    }
    for name in ("HF_HUB_OFFLINE", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "TRANSFORMERS_CACHE"):
        if name not in extra:
            environment.pop(name, None)
    child = subprocess.run(
        [*before, sys.executable, "-c", CLIENT, json.dumps(commands)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert child.returncode == 0, child.stderr[-3000:]
    *said, last = child.stdout.splitlines()
    return json.loads(last.removeprefix("RESULTS ")), "\n".join(said), child.stderr


@pytest.fixture(scope="module")
def session(models, tmp_path_factory):
    """Everything one client did with the hub, and the hub's and the cache's state after it."""
    folder, _ = models
    home = tmp_path_factory.mktemp("home")
    with Hub() as hub:
        commands = []
        for name, (faults, _) in FAULTS.items():
            hub.publish(f"course/{name}", folder / "0")
            hub.faults[f"course/{name}"] = [Fault(**vars(fault)) for fault in faults]
            commands += [("load", f"course/{name}"), ("repair", f"course/{name}"), ("load", f"course/{name}")]
        (home / "modules").mkdir()
        (home / "modules" / "module_of_this_machine.py").write_text(f"open({str(home / 'ran')!r}, 'w')")
        for i, unsafe in enumerate(UNSAFE.values()):
            changed = Path(shutil.copytree(folder / "0", home / "unsafe" / str(i)))
            make_unsafe(changed, *unsafe, ran=home / "ran")
            hub.publish(f"course/unsafe-{i}", changed)
        files = {path.relative_to(folder / "0").as_posix(): path.read_bytes() for path in (folder / "0").rglob("*.*")}
        hub.publish("course/pickle", {path.replace(".safetensors", ".bin"): content for path, content in files.items()})
        hub.publish("course/no-index", {path: content for path, content in files.items() if "index" not in path})
        # What the course was written for, and then what its owner has put in its place since.
        for name in (SD15, ARTICLE_MODEL):
            hub.publish(name, folder / "0", commit=REVISIONS[name])
            hub.publish(name, folder / "1")
        names = [*(f"course/{name}" for name in REFUSED), "sd15", ARTICLE_MODEL, "course/nothing", "sd15"]
        commands += [("load", name) for name in names]
        results, said, errors = run_client(commands, hub.endpoint, home)
        outcomes = defaultdict(list)
        for (_, name), result in zip([c for c in commands if c[0] == "load"], results, strict=True):
            outcomes[name].append(result)
        return hub, home, outcomes, said, errors


@pytest.mark.parametrize("name", FAULTS)
def test_every_fault_ends_in_the_picture_or_in_a_sentence_and_the_next_load_in_the_picture(name, models, session):
    picture = ["picture", models[1][0]]
    first, second, *_ = session[2][f"course/{name}"]
    expected = FAULTS[name][1]
    if expected is None:
        assert first == picture
    else:
        kind, *parts = expected
        assert first[0] == kind
        assert "\n" not in first[1]
        for part in parts:
            assert part in first[1]
    assert second == picture


def test_a_cut_download_goes_on_where_it_was_cut(models, session):
    size = (models[0] / "0" / UNET).stat().st_size
    gets = [
        headers.get("range")
        for method, path, headers in session[0].requests
        if method == "GET" and path.startswith("/course/cut/") and path.endswith(UNET)
    ]
    assert gets[0] is None
    starts = [int(given.removeprefix("bytes=").rstrip("-")) for given in gets[1:]]
    assert starts[0] == size // 2 // PIECE * PIECE
    assert len(starts) == 2 and starts[0] < starts[1] < size


def test_a_cached_model_is_not_downloaded_again(session):
    gets = [path for method, path, _ in session[0].requests if method == "GET" and path.startswith("/course/nothing/")]
    assert len(gets) == len(set(gets))


def test_the_login_stays_with_the_hub(session):
    storage = [
        headers for _, path, headers in session[0].requests if path.startswith("/course/") and "/resolve/" not in path
    ]
    pages = [headers for _, path, headers in session[0].requests if path.startswith("/api/models/")]
    assert storage and not any("authorization" in headers for headers in storage)
    assert pages and all(headers.get("authorization") == "Bearer hf_secret" for headers in pages)


def test_known_models_are_taken_at_their_commit_and_once(models, session):
    hub, _, outcomes, *_ = session
    assert models[1][0] != models[1][1]
    assert outcomes["sd15"] == [["picture", models[1][0]]] * 2
    assert outcomes[ARTICLE_MODEL] == [["picture", models[1][0]]]
    asked = [(method, path) for method, path, _ in hub.requests if SD15 in path]
    assert len(asked) == len(set(asked))  # the second time, nothing: the cache has it, and a commit never changes


def test_the_safety_checker_is_on_and_said(session):
    assert f"{SD15} brings a safety checker, and it is on" in session[3]


@pytest.mark.parametrize("i", range(len(UNSAFE)), ids=list(UNSAFE))
def test_a_model_that_names_code_is_refused_before_any_of_it_is_downloaded(i, session):
    """Whatever its model_index.json says, and before diffusers sees that: it would import what stands there."""
    hub, home, outcomes, *_ = session
    ((kind, sentence),) = outcomes[f"course/unsafe-{i}"]
    assert kind == "ValueError" and "\n" not in sentence
    assert f"course/unsafe-{i}" in sentence and ("never run" in sentence or "needs a StableDiffusionPipe" in sentence)
    asked = {path.split("?")[0].split("/")[-1] for _, path, _ in hub.requests if f"unsafe-{i}/" in path}
    commit = hub.heads[f"course/unsafe-{i}"]
    assert asked == {"main", commit, "model_index.json"}  # of the repository, of its list of files, and the file
    assert not (home / "ran").exists()


def test_no_other_repository_is_asked_for_code(session):
    assert not [path for _, path, _ in session[0].requests if "datasets" in path or path.endswith(".py")]


@pytest.mark.parametrize("name, part", [("no-index", "no model_index.json"), ("pickle", "no *.safetensors")])
def test_what_is_no_pipeline_and_pickles_are_refused(name, part, session):
    ((kind, sentence),) = session[2][f"course/{name}"]
    assert kind == "ValueError" and part in sentence and "\n" not in sentence
    assert not list((session[1] / "hub").rglob("*.bin"))


def test_the_cache_holds_whole_files_only(session):
    blobs = [path for path in (session[1] / "hub").glob("models--*/blobs/*") if path.is_file()]
    assert len(blobs) > 100
    for blob in blobs:
        assert blob.name in (sha256(blob.read_bytes()), git_hash(blob.read_bytes()))


@pytest.fixture(scope="module")
def nowhere():
    """The address of a hub that refuses every connection."""
    with Hub() as hub:
        pass
    return hub.endpoint


@pytest.mark.parametrize(
    "offline", [False, pytest.param(True, marks=pytest.mark.nightly)], ids=["connection-refused", "HF_HUB_OFFLINE"]
)
def test_without_the_hub_the_cache_is_enough(offline, models, session, nowhere):
    extra = {"HF_HUB_OFFLINE": "1"} if offline else {}
    names = ["course/nothing", "course/cut", "sd15", "course/never-loaded"]
    results, _, errors = run_client([("load", name) for name in names], nowhere, session[1], **extra)
    assert "Fetching" not in errors  # the bar of a download, where there is none
    assert results[:-1] == [["picture", models[1][0]]] * 3
    kind, sentence = results[-1]
    assert kind == "ConnectionError" and "\n" not in sentence
    assert "'course/never-loaded'" in sentence and all(part in sentence for part in NETWORK)


def small_disk(home, kilobytes):
    """The start of a command line that runs a program with a disk of its own at `home`."""
    script = f'mount -t tmpfs -o size={kilobytes}k none "{home}" && exec "$0" "$@"'
    for unshare in (["unshare", "--mount"], ["unshare", "--map-root-user", "--mount"]):
        before = [*unshare, "sh", "-c", script]
        if shutil.which("unshare") and subprocess.run([*before, "true"], capture_output=True).returncode == 0:
            return before
    pytest.skip("no disk can be mounted here: neither root nor user namespaces")


def test_a_disk_that_is_full_or_refuses_is_said_and_leaves_no_harm(models, tmp_path):
    folder, pictures = models
    size = sum(path.stat().st_size for path in folder.joinpath("0").rglob("*.*")) // 1024
    before = small_disk(tmp_path, size // 2)
    load = ("load", "course/large")
    with Hub() as hub:
        hub.publish("course/large", folder / "0")
        commands = [load, load, ("remount", "ro"), load, ("remount", "rw,size=64m"), load]
        results, _, _ = run_client(commands, hub.endpoint, tmp_path, before=before)
    causes = ["No space left on device"] * 2 + ["Read-only file system"]
    for (kind, sentence), cause in zip(results[:3], causes, strict=True):
        assert kind == "OSError" and "\n" not in sentence
        for part in (cause, "'course/large'", str(tmp_path / "hub"), "HF_HOME"):
            assert part in sentence
    assert results[3] == ["picture", pictures[0]]


@pytest.mark.parametrize(
    "cause, kind, part",
    [
        (ConnectionError("refused"), ConnectionError, "could not be reached"),
        (TimeoutError("slow"), ConnectionError, "could not be reached"),
        (type("ReadTimeout", (Exception,), {"__module__": "httpx2"})("slow"), ConnectionError, "could not be reached"),
        (PermissionError(13, "Permission denied", "x.safetensors"), PermissionError, "Permission denied: 'a/model'"),
        (KeyError("a bug"), type(None), "None"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_what_went_wrong_is_told_by_its_first_cause(cause, kind, part):
    wrapped = OSError("Cannot load the model.\nSee the safetensors above.")
    wrapped.__cause__ = cause
    for error in (cause, wrapped):
        clearer = explained(error, "a/model", "another")
        assert type(clearer) is kind
        assert part in str(clearer) and "\n" not in str(clearer)
