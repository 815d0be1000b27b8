"""What a run keeps in its folder: its settings, which it never changes, and the last whole checkpoint.

`config.json` says what the run is made of. Whoever starts a run in its folder again with other settings is refused once
there is a checkpoint, for that is of the old ones. `training.json`, beside finished weights, lists the runs that made
them.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from training.flags import flat

CONFIG, HISTORY = "config.json", "training.json"
FREE = ("checkpoint_minutes", "stop_after")  # settings that do not alter what comes out


def folder_key(folder: Path) -> str:
    """Twelve digits that change with any weight, configuration or tokenizer of the models in a folder.

    Raises FileNotFoundError where there are no weights.
    """
    files = sorted(folder.rglob("*"))
    files = [path for path in files if path.suffix == ".safetensors" or path.name in ("config.json", "tokenizer.json")]
    if not any(path.suffix == ".safetensors" for path in files):
        raise FileNotFoundError(f"{folder} holds no weights (*.safetensors)")
    return files_key(files)


def files_key(files: list[Path], more: str = "") -> str:
    """Twelve digits that change with the content of any file, and with the text `more`."""
    whole = hashlib.sha256(more.encode())
    for path in files:
        with open(path, "rb") as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()[:12]


def describe(
    program: str,
    config: Any,
    folder: Path,
    accelerator: Accelerator,
    inputs: Mapping[str, Path | None] | None = None,
    keys: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """All that a run is made of, ready for JSON.

    config: a dataclass. inputs: folders that the run begins with or uses, by the name of their flag. keys: of those
    that hold no weights, what changes with their content.
    """
    used = {name: place for name, place in (inputs or {}).items() if place}
    keys = keys or {}
    record = {
        "program": program,
        "folder": folder.as_posix(),
        "mixed_precision": accelerator.mixed_precision,
        "settings": flat(config),
        "inputs": {
            name: {"folder": place.as_posix(), "key": keys[name] if name in keys else folder_key(place)}
            for name, place in used.items()
        },
    }
    return json.loads(json.dumps(record))  # tuples become lists, as they will be when read


def _decisive(record: dict[str, Any]) -> dict[str, Any]:
    settings = {name: value for name, value in record["settings"].items() if name not in FREE}
    keys = {name: used["key"] for name, used in record["inputs"].items()}
    return {"program": record["program"], "mixed_precision": record["mixed_precision"]} | settings | keys


def claim(folder: Path, record: dict[str, Any], accelerator: Accelerator) -> None:
    """Begin the run `record` in `folder`, or go on with it. SystemExit if there is a checkpoint of another run."""
    path = folder / CONFIG
    whole, _, old = _places(folder)
    with accelerator.main_process_first():
        trained = whole.exists() or old.exists()
        if trained and not path.exists():
            raise SystemExit(
                f"{folder} holds a checkpoint and no {CONFIG} that tells its settings: choose another folder"
            )
        if accelerator.is_main_process and not trained:
            folder.mkdir(parents=True, exist_ok=True)
            fresh = path.with_name(CONFIG + ".new")
            fresh.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
            fresh.replace(path)
    there, here = _decisive(json.loads(path.read_text(encoding="utf-8"))), _decisive(record)
    different = [name for name in there | here if there.get(name) != here.get(name)]
    if different:
        listed = ", ".join(f"{name} {there.get(name, 'absent')} (now {here.get(name, 'absent')})" for name in different)
        raise SystemExit(f"{folder} holds a run with other settings, {listed}: repeat these or choose another folder")


def last_checkpoint(folder: Path, accelerator: Accelerator) -> Path | None:
    """The last whole checkpoint, or None. What a stop left of others is put right first."""
    whole, new, old = _places(folder)
    with accelerator.main_process_first():
        if accelerator.is_main_process:
            if old.exists() and not whole.exists():  # stopped between the two renames of `save_checkpoint`
                new.rename(whole)
            shutil.rmtree(new, ignore_errors=True)  # one that was being written
            shutil.rmtree(old, ignore_errors=True)
    return whole if whole.exists() else None


def save_checkpoint(folder: Path, accelerator: Accelerator) -> None:
    """Write a whole new checkpoint before the old one goes, so that a stop at any moment leaves one.

    Of the three names, `checkpoint` and `checkpoint.old` are only ever given to whole checkpoints, by renaming, which
    happens entirely or not at all. Where `checkpoint` is missing beside `checkpoint.old`, `checkpoint.new` is whole.
    """
    whole, new, old = _places(folder)
    accelerator.save_state(new)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        if whole.exists():
            whole.rename(old)
        new.rename(whole)
        shutil.rmtree(old, ignore_errors=True)
    accelerator.wait_for_everyone()


def _places(folder: Path) -> tuple[Path, Path, Path]:
    return folder / "checkpoint", folder / "checkpoint.new", folder / "checkpoint.old"


def history(folder: Path | None) -> list[dict[str, Any]]:
    """The records of the runs that made the weights in a folder, the first run first; none where none are written."""
    path = folder / HISTORY if folder else None
    return json.loads(path.read_text(encoding="utf-8"))["runs"] if path and path.exists() else []


def write_history(folder: Path, *runs: list[dict[str, Any]]) -> None:
    """Write down the runs that made the weights in a folder, each once."""
    each = []
    for record in (record for some in runs for record in some):
        if record not in each:
            each.append(record)
    (folder / HISTORY).write_text(json.dumps({"runs": each}, indent=1) + "\n", encoding="utf-8")
