"""Downloading from a model hub, into the cache of its own client; what goes wrong is said in one sentence."""

import errno
from contextlib import suppress
from pathlib import Path

DISK = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO}
# Where the errors of networks are defined: HTTP libraries have no common base class.
NETWORK = ("http", "requests", "urllib3", "socket")


def fetch(name: str, files: list[str], *, revision: str | None, choices: str) -> Path:
    """The folder, in the cache of the hub's client, with these files of a model; what is there is not downloaded again.

    files: their names, in which a star stands for anything.
    revision: a commit; None stands for the newest, or the newest in the cache if the hub cannot be reached.
    choices: what an error offers in place of a model that the hub does not have.

    Raises the exceptions of `explained`.
    """
    from huggingface_hub import errors, get_cached_repo_tree, snapshot_download

    options = {"revision": revision, "allow_patterns": files}
    try:
        if revision is not None:  # a commit never changes: all of it in the cache is taken without a bar
            with suppress(errors.LocalEntryNotFoundError, errors.CachedRepoTreeNotFoundError):
                get_cached_repo_tree(name, revision=revision)  # without this list, half a model would be taken for all
                return Path(snapshot_download(name, local_files_only=True, **options))
        return Path(snapshot_download(name, **options))
    except Exception as error:
        clearer = explained(error, name, choices)
        if clearer is None:
            raise
        raise clearer from error


def explained(error: Exception, name: str, choices: str) -> OSError | ValueError | None:
    """The exception whose one sentence says what went wrong with the hub and what helps; None if it is not the hub's.

    OSError if the disk is full or refuses; PermissionError if the hub wants a login; ValueError if it has no such
    model; ConnectionError if it could not be reached, or what it sent was cut short.
    """
    from huggingface_hub import constants, errors

    chain: list[BaseException] = []  # the error, what it was raised from, and so on to the first
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    statuses = {getattr(getattr(link, "response", None), "status_code", None) for link in chain}

    def among(*kinds: type[BaseException]) -> bool:
        return any(isinstance(link, kinds) for link in chain)

    disk = next((link for link in chain if isinstance(link, OSError) and link.errno in DISK), None)
    if disk is not None:
        return OSError(
            disk.errno,
            f"{disk.strerror}: {name!r} could not be kept in {constants.HF_HUB_CACHE}; make room there and let it be "
            "written to, or set HF_HOME to a folder on another disk before Python starts",
        )
    if among(errors.GatedRepoError) or 403 in statuses:
        return PermissionError(
            f"{name!r} asks you to accept its terms at https://huggingface.co/{name} and to log in with "
            "`hf auth login`; load_pipeline('pocket') needs neither"
        )
    if among(errors.RepositoryNotFoundError, errors.HFValidationError) or statuses & {401, 404}:
        return ValueError(
            f"The hub has no model {name!r} that you may read, nor is there such a folder here: choose {choices}"
        )
    if "Consistency check failed" in str(error):
        return ConnectionError(f"A file of {name!r} arrived with another size than the hub gave for it: load it again")
    if among(ConnectionError, TimeoutError, errors.HfHubHTTPError, errors.LocalEntryNotFoundError) or any(
        type(link).__module__.startswith(NETWORK) for link in chain
    ):
        return ConnectionError(
            f"{name!r} was asked for, but the model hub could not be reached; load_pipeline('pocket') works offline"
        )
    return None
