"""Loading a Stable Diffusion pipeline: the one in this repository, the real one, or any other in its format."""

import difflib
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

ROOT = Path(__file__).resolve().parent.parent
POCKET = ROOT / "models" / "pocket-diffusion"
KNOWN = {"sd15": "stable-diffusion-v1-5/stable-diffusion-v1-5"}
ARTICLE_MODEL = "dreamlike-art/dreamlike-photoreal-2.0"  # the fine-tune that the article behind this course uses
CHECKSUMS = "SHA256SUMS"

CHOICES = "'auto', 'pocket', 'sd15', a hub id such as 'owner/name', or a folder"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
PICKLES = (".bin", ".ckpt", ".pt", ".pth")
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# What the folder of each component must hold, by component; any other needs a .json file.
NEEDED = {
    "vae": ("*.safetensors",),
    "unet": ("*.safetensors",),
    "text_encoder": ("*.safetensors",),
    "safety_checker": ("*.safetensors",),
    "image_encoder": ("*.safetensors",),
    "tokenizer": ("tokenizer.json", "vocab.json"),
}


def best_device() -> torch.device:
    """The fastest device this machine has: CUDA, else Apple's MPS, else the CPU."""
    return torch.device(_devices()[0])


def best_dtype(device: torch.device | str) -> torch.dtype:
    """float16 on CUDA, where it halves memory and time; float32 elsewhere, where it is slow or overflows."""
    return torch.float16 if torch.device(device).type == "cuda" else torch.float32


def load_pipeline(
    name: str | Path = "auto", *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> "StableDiffusionPipeline":
    """A Stable Diffusion pipeline, ready to draw, with every component on one device and in one dtype.

    name: "pocket", the model in this repository, needs no network. "sd15" is Stable Diffusion 1.5. A hub id
    (`owner/name`) or a folder loads any other model in the same format. "auto" takes Stable Diffusion 1.5 on a CUDA
    GPU when it can be had, else Pocket; if it falls back it says so in one printed sentence.
    device, dtype: by default `best_device()` and `best_dtype(device)`.

    Weights are read from safetensors only, never from pickle, and no code from the model is run. Nothing is printed
    on stderr but the progress of a download.

    Raises ValueError for a name, folder, device or dtype that cannot work, and for weights that are missing or
    damaged; ConnectionError if the hub cannot be reached; PermissionError if the hub wants a login.
    """
    device = _checked_device(device)
    dtype = best_dtype(device) if dtype is None else dtype
    if dtype not in DTYPES:
        raise ValueError(f"Unknown dtype {dtype!r}: choose one of {', '.join(map(str, DTYPES))}")
    if name == "auto" and device.type == "cuda":
        try:
            return _from_hub(KNOWN["sd15"], device, dtype)
        except (OSError, ValueError) as error:
            print(f"Stable Diffusion 1.5 could not be had, so this is Pocket Diffusion instead: {error}")
    if name in ("auto", "pocket"):
        return _from_folder(POCKET, device, dtype)
    text = KNOWN.get(name, name) if isinstance(name, str) else str(name)
    path = Path(text).expanduser()
    if text and path.is_dir():
        return _from_folder(path, device, dtype)
    if path.is_file():
        raise ValueError(f"{text!r} is a file: give the folder of a pipeline, with model_index.json and safetensors")
    if isinstance(name, str) and HUB_ID.fullmatch(text):
        return _from_hub(text, device, dtype)
    if isinstance(name, Path) or "/" in text or "\\" in text:
        raise ValueError(f"There is no folder {text!r}: choose {CHOICES}")
    near = difflib.get_close_matches(text.lower(), ["auto", "pocket", *KNOWN], n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    raise ValueError(f"Unknown model {text!r}{hint}: choose {CHOICES}")


def write_checksums(folder: str | Path) -> None:
    """Write `SHA256SUMS`, in the format of the sha256sum command, over the files of a model folder.

    README.md, the list itself and hidden files are left out: they may change without harm to the model.
    """
    folder = Path(folder)
    paths = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    listed = [
        path
        for path in paths
        if path.as_posix() not in ("README.md", CHECKSUMS) and not any(part.startswith(".") for part in path.parts)
    ]
    lines = [f"{_sha256(folder / path)}  {path.as_posix()}\n" for path in listed]
    # Written as bytes: Windows would turn each line end into two characters.
    (folder / CHECKSUMS).write_bytes("".join(lines).encode())


def verify_checksums(folder: str | Path) -> None:
    """Compare every file in `SHA256SUMS` with its hash; ValueError names the first that is missing or differs."""
    folder = Path(folder)
    for line in (folder / CHECKSUMS).read_text(encoding="utf-8").splitlines():
        expected, _, name = line.partition(" ")
        path = folder / name[1:]  # after the hash come a space and either a space or, for binary mode, a star
        if not path.is_file():
            raise ValueError(f"{path} is missing: {_cure(folder)}")
        if _sha256(path) != expected:
            raise ValueError(f"{path} is damaged (its SHA-256 is not the one in {CHECKSUMS}): {_cure(folder)}")


@contextmanager
def quiet(*, bars: bool = False) -> Iterator[None]:
    """Keep diffusers and transformers from printing anything but errors, and their loading bars unless `bars`.

    Their settings are as before afterwards. The bars of downloads stay: they take minutes, loading takes seconds.
    """
    from diffusers.utils import logging as diffusers_logging
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
    from transformers.utils import logging as transformers_logging

    downloads = not are_progress_bars_disabled()
    settings = [
        (library, library.get_verbosity(), library.is_progress_bar_enabled())
        for library in (diffusers_logging, transformers_logging)
    ]
    try:
        for library, _, _ in settings:
            library.set_verbosity_error()
            if not bars:
                library.disable_progress_bar()
        if downloads:
            enable_progress_bars()  # transformers switches these off together with its own
        yield
    finally:
        for library, verbosity, bar in settings:
            library.set_verbosity(verbosity)
            if bar and not bars:
                library.enable_progress_bar()
        if not downloads:
            disable_progress_bars()


def _devices() -> list[str]:
    """The kinds of device there are, fastest first."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    return [kind for kind, available in there.items() if available]


def _checked_device(device: torch.device | str | None) -> torch.device:
    if device is None:
        return best_device()
    try:
        checked = torch.device(device)
    except (RuntimeError, TypeError):
        checked = None
    there = _devices()
    known = checked is not None and checked.type in there
    if not known or (checked.type == "cuda" and (checked.index or 0) >= torch.cuda.device_count()):
        raise ValueError(f"Device {str(device)!r} is not there: this machine has {', '.join(map(repr, there))}")
    return checked


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _cure(folder: Path) -> str:
    if folder.resolve() == POCKET.resolve():
        return "restore it with `git checkout -- models/pocket-diffusion`, or clone the course again"
    return "copy or download the folder again"


def _check_folder(folder: Path) -> None:
    """Raise ValueError unless a folder holds a whole Stable Diffusion pipeline in safetensors."""
    if not folder.is_dir():
        raise ValueError(f"The folder {folder} is missing: {_cure(folder)}")
    if (folder / CHECKSUMS).is_file():
        verify_checksums(folder)
    index = folder / "model_index.json"
    if not index.is_file():
        _refuse_pickle(folder)
        raise ValueError(f"{folder} is not a pipeline: it has no model_index.json; choose {CHOICES}")
    try:
        parts = json.loads(index.read_text(encoding="utf-8"))
        kind = parts["_class_name"]
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{index} is damaged: {_cure(folder)}") from None
    if kind != "StableDiffusionPipeline":
        # diffusers loads another kind, such as Stable Diffusion XL, without a word and draws rubbish with it.
        raise ValueError(f"{folder} holds a {kind}: the course needs a StableDiffusionPipeline")
    code = next(folder.rglob("*.py"), None)
    if code is not None:
        raise ValueError(f"{folder} brings its own code ({code.name}), which is never run: choose a model without any")
    # diffusers loads a pipeline without its tokenizer's files and says nothing, so each part is looked at here.
    for name, value in parts.items():
        if not isinstance(value, list) or value[0] is None:
            continue
        needed = NEEDED.get(name, ("*.json",))
        if any(next((folder / name).glob(pattern), None) for pattern in needed):
            continue
        _refuse_pickle(folder / name)
        raise ValueError(f"{folder / name} has no {' or '.join(needed)}: {_cure(folder)}")


def _refuse_pickle(folder: Path) -> None:
    for path in sorted(folder.glob("*")):
        if path.suffix in PICKLES:
            raise ValueError(f"{path} is a pickle, which can run code when loaded: choose a model in .safetensors")


def _from_folder(folder: Path, device: torch.device, dtype: torch.dtype) -> "StableDiffusionPipeline":
    from safetensors import SafetensorError

    _check_folder(folder)
    try:
        with quiet():
            from diffusers import StableDiffusionPipeline  # here, because importing it prints advice on torchvision

            pipe = StableDiffusionPipeline.from_pretrained(str(folder), use_safetensors=True, dtype=dtype)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ValueError(
            f"The weights in {folder} are damaged or do not fit its configuration: {_cure(folder)}"
        ) from error
    lost = _lost_tensor(pipe, folder)
    if lost is not None:
        raise ValueError(f"The weights in {folder} are damaged ({lost} is not among them): {_cure(folder)}")
    return pipe.to(device)


def _lost_tensor(pipe: "StableDiffusionPipeline", folder: Path) -> str | None:
    """The name of a weight that the files lack, if any: the libraries put an empty or a random one in its place."""
    from safetensors import safe_open

    for part in ("unet", "vae"):
        for name, tensor in getattr(pipe, part).named_parameters():
            if tensor.is_meta:
                return f"{part}.{name}"
    stored: set[str] = set()
    for path in (folder / "text_encoder").glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            stored |= {name.removeprefix("text_model.") for name in file.keys()}  # noqa: SIM118 (not a dict)
    for name, _ in pipe.text_encoder.named_parameters():
        if name.removeprefix("text_model.") not in stored:  # transformers dropped this prefix in 5.6
            return f"text_encoder.{name}"
    return None


def _from_hub(name: str, device: torch.device, dtype: torch.dtype) -> "StableDiffusionPipeline":
    try:
        with quiet():
            from diffusers import StableDiffusionPipeline

            folder = Path(StableDiffusionPipeline.download(name, use_safetensors=True))
    except Exception as error:
        sentence = _hub_sentence(name, error)
        if sentence is None:
            raise
        raise sentence from error
    pipe = _from_folder(folder, device, dtype)
    pipe.register_to_config(_name_or_path=name)  # rather than a folder deep in the cache
    return pipe


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(" .")


def _hub_sentence(name: str, error: BaseException) -> OSError | ValueError | None:
    """The exception that says in one sentence why the hub gave nothing, or None if it was no matter of the hub.

    diffusers wraps what happened, so the whole chain of causes is read, the innermost last.
    """
    from huggingface_hub import errors

    chain: list[BaseException] = []
    step: BaseException | None = error
    while step is not None and step not in chain:
        chain.append(step)
        step = step.__cause__ or step.__context__
    statuses = {getattr(getattr(link, "response", None), "status_code", None) for link in chain}
    if any(isinstance(link, errors.GatedRepoError) for link in chain) or 403 in statuses:
        return PermissionError(
            f"{name!r} asks you to accept its terms at https://huggingface.co/{name} and to log in with "
            "`hf auth login`; load_pipeline('pocket') needs neither"
        )
    if any(isinstance(link, errors.RemoteEntryNotFoundError) for link in chain):
        return ValueError(f"{name!r} is not a pipeline: the hub has no model_index.json in it; choose {CHOICES}")
    if any(isinstance(link, errors.RepositoryNotFoundError) for link in chain) or statuses & {401, 404}:
        return ValueError(
            f"The hub has no model {name!r} that you may read, nor is there such a folder here: choose {CHOICES}"
        )
    # HTTP libraries have no common base class; the hub's client changed from requests to httpx and on to httpx2.
    network = ("requests", "httpx", "httpcore", "urllib3", "socket")
    if any(
        isinstance(link, (ConnectionError, TimeoutError, errors.HfHubHTTPError, errors.LocalEntryNotFoundError))
        or type(link).__module__.startswith(network)
        for link in chain
    ):
        return ConnectionError(
            f"{name!r} was asked for, but the model hub could not be reached; load_pipeline('pocket') works offline"
        )
    if "safetensors" in str(error):
        return ValueError(f"{name!r} has no whole set of .safetensors weights ({_first_line(error)}): choose another")
    return None
