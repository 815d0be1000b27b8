"""Asking a model hub: what it sends is verified, and what goes wrong is said in one sentence.

The downloads themselves are those of diffusers and of the hub's own client, into that client's cache.
"""

import errno
import hashlib
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


def fetch(asked: str, name: str, download: Callable[..., str], *, revision: str | None, choices: str) -> Path:
    """What `download(name, revision=...)` fetches of a model: a folder of the hub's cache, compared with its hashes.

    asked, choices: what the sentence of a failure calls it, and what it offers instead. If the hub cannot be reached,
    the cache is enough.

    Raises the exceptions of `sentence` and `verify_download`.
    """
    try:
        try:
            folder = Path(download(name, revision=revision))
        except Exception as error:
            # diffusers itself turns to the cache after only some of the network's failures.
            if not isinstance(sentence(asked, name, error, choices=choices), ConnectionError):
                raise
            try:
                folder = Path(download(name, revision=revision, local_files_only=True))
            except Exception:
                raise error from error.__cause__
    except Exception as error:
        said = sentence(asked, name, error, choices=choices)
        if said is None:
            raise
        raise said from error
    verify_download(folder)
    return folder


def verify_download(snapshot: Path) -> None:
    """Compare what the hub's cache holds of a model with its hashes; throw away what differs, and raise.

    The hub's client compares sizes only. Its cache keeps each file under the hash that the hub gave for it, SHA-256
    for large files and git's for small ones, with a link from the snapshot; where the file system has no links, there
    is nothing to compare with. Each file is hashed once: a list beside the cache's own remembers which were right.
    """
    listing = snapshot.parent.parent / "verified.txt"
    known = set(listing.read_text(encoding="utf-8").splitlines()) if listing.is_file() else set()
    right, wrong = set(), []
    for path in sorted(path for path in snapshot.rglob("*") if path.is_symlink() and path.is_file()):
        blob = path.parent / path.readlink()
        if not blob.exists():  # deleted a moment ago: two files of one content share it
            wrong.append(path)
            path.unlink()
            continue
        state = blob.stat()
        line = f"{blob.name} {state.st_size} {state.st_mtime_ns}"
        if line not in known | right and file_hash(blob) not in (None, blob.name):
            wrong.append(path)
            blob.unlink()
            path.unlink()
        else:
            right.add(line)
    if not right <= known:
        with suppress(OSError):  # a cache that is read-only, or a full disk: the files are hashed again next time
            listing.write_text("".join(f"{line}\n" for line in sorted(known | right)), encoding="utf-8")
    if wrong:
        names = ", ".join(path.relative_to(snapshot).as_posix() for path in wrong)
        raise ConnectionError(f"{names} arrived damaged (another hash than the hub's) and was deleted: load it again")


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_hash(blob: Path) -> str | None:
    """The hash of a file of the kind that its name is: SHA-256, or git's of a blob; None for another name."""
    if re.fullmatch("[0-9a-f]{64}", blob.name):
        return sha256(blob)
    if re.fullmatch("[0-9a-f]{40}", blob.name):
        content = blob.read_bytes()
        return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    return None


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(" .")


def sentence(asked: str, name: str, error: BaseException, *, choices: str) -> OSError | ValueError | None:
    """The exception that says in one sentence why the hub gave nothing, or None if it was no matter of the hub.

    diffusers wraps what happened, so the whole chain of causes is read, the innermost last.
    """
    from huggingface_hub import constants, errors

    chain: list[BaseException] = []
    step: BaseException | None = error
    while step is not None and step not in chain:
        chain.append(step)
        step = step.__cause__ or step.__context__
    statuses = {getattr(getattr(link, "response", None), "status_code", None) for link in chain}
    if any(getattr(link, "errno", None) in (errno.ENOSPC, errno.EDQUOT) for link in chain):
        return OSError(
            errno.ENOSPC,
            f"No space left on device for {asked!r}: make room where the downloads go, {constants.HF_HUB_CACHE}, or "
            "set HF_HOME to a folder on another disk before Python starts, and load it again",
        )
    if any(isinstance(link, errors.GatedRepoError) for link in chain) or 403 in statuses:
        return PermissionError(
            f"{asked!r} asks you to accept its terms at https://huggingface.co/{name} and to log in with "
            "`hf auth login`; load_pipeline('pocket') needs neither"
        )
    if any(isinstance(link, errors.RevisionNotFoundError) for link in chain):
        return ValueError(f"The hub no longer has the revision of {name!r} that the course uses: choose {choices}")
    if any(isinstance(link, errors.RemoteEntryNotFoundError) for link in chain):
        return ValueError(f"{name!r} is not a pipeline: the hub has no model_index.json in it; choose {choices}")
    if any(isinstance(link, errors.RepositoryNotFoundError) for link in chain) or statuses & {401, 404}:
        return ValueError(
            f"The hub has no model {name!r} that you may read, nor is there such a folder here: choose {choices}"
        )
    if "Consistency check failed" in str(error):
        return ConnectionError(
            f"A file of {asked!r} arrived with another size than the hub gave for it, and was not kept: load it again"
        )
    # HTTP libraries have no common base class; the hub's client changed from requests to httpx and on to httpx2.
    network = ("requests", "httpx", "httpcore", "urllib3", "socket")
    if any(
        isinstance(link, (ConnectionError, TimeoutError, errors.HfHubHTTPError, errors.LocalEntryNotFoundError))
        or type(link).__module__.startswith(network)
        for link in chain
    ):
        return ConnectionError(
            f"{asked!r} was asked for, but the model hub could not be reached; load_pipeline('pocket') works offline"
        )
    if "trust_remote_code" in str(error):
        return ValueError(f"{name!r} brings its own code, which is never run: choose a model without any")
    if "safetensors" in str(error):
        return ValueError(f"{name!r} has no whole set of .safetensors weights ({_first_line(error)}): choose another")
    return None
