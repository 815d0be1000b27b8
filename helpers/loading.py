"""Loading a Stable Diffusion pipeline: the one in this repository, the real one, or any other in its format."""

import difflib
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from helpers import hub

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

ROOT = Path(__file__).resolve().parent.parent
POCKET = ROOT / "models" / "pocket-diffusion"
KNOWN = {"sd15": "stable-diffusion-v1-5/stable-diffusion-v1-5"}
ARTICLE_MODEL = "dreamlike-art/dreamlike-photoreal-2.0"  # the fine-tune that the article behind this course uses
# The commit of each known model that the lessons were written for: what is downloaded does not change under them.
# Models that are not listed are taken from their branch `main`.
REVISIONS = {
    KNOWN["sd15"]: "451f4fe16113bff5a5d2269ed5ad43b0592e9a14",
    ARTICLE_MODEL: "d9e27ac81cfa72def39d74ca673219c349f0a0d5",
}
CHECKSUMS = "SHA256SUMS"
CHOICE = "SDSS_MODEL"  # the environment variable that says what "auto" stands for

CHOICES = "'auto', 'pocket', 'sd15', a hub id such as 'owner/name', a folder, or a .safetensors file"
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
# One weight of each part of a Stable Diffusion 1 checkpoint in a single file, by the names of the original code.
SINGLE_FILE = {
    "U-Net": "model.diffusion_model.input_blocks.0.0.weight",
    "VAE": "first_stage_model.decoder.conv_in.weight",
    "text encoder": "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight",
}
GIB = 2**30
# GPU memory beside the weights: what drawing 512 x 512 pixels in float16 takes, and the least that it can do with when
# attention is sliced. Estimates, on the safe side, not yet measured on a GPU.
ROOM, LEAST = 2 * GIB, GIB // 2
FULL = (
    "The memory of the {kind} is full: draw fewer pictures at a time, or smaller ones; shut down other notebooks that "
    "use it; or restart the kernel and load the pipeline with safety_checker=False, or with dtype=torch.float16"
)


def best_device() -> torch.device:
    """The fastest device this machine has: CUDA, else Apple's MPS, else the CPU."""
    return torch.device(_devices()[0])


def best_dtype(device: torch.device | str) -> torch.dtype:
    """float16 on CUDA, where it halves memory and time; float32 elsewhere.

    CPUs compute slowly in float16, and on Apple's MPS it has overflowed into black pictures.
    """
    return torch.float16 if torch.device(device).type == "cuda" else torch.float32


def load_pipeline(
    name: str | Path = "auto",
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    safety_checker: bool = True,
) -> "StableDiffusionPipeline":
    """A Stable Diffusion pipeline, ready to draw, with every component on one device and in one dtype.

    name: "pocket", the model in this repository, needs no network. "sd15" is Stable Diffusion 1.5. A hub id
    (`owner/name`) or a folder loads any other model in the same format; a .safetensors file loads a checkpoint of
    Stable Diffusion 1, whose configuration and tokenizer then come from the hub or its cache. "auto", which all
    lessons ask for, takes Stable Diffusion 1.5 on a CUDA GPU when it can be had, else Pocket; if it falls back it says
    so in one printed sentence. The environment variable SDSS_MODEL, set to any of the other names before Python
    starts, says what "auto" is instead, for all lessons at once; that is printed too, and nothing is fallen back to.
    device, dtype: by default `best_device()` and `best_dtype(device)`.
    safety_checker: load the one that the model brings, if it does (Pocket has none). The pipeline shows it every
    finished picture, and it blackens those that it takes for sexual content; one printed sentence says that it is on.
    False leaves it out: then what is drawn is for you to judge. `sampling.denoise` and `latents.decode` never use it.

    Models of the hub that the course knows are taken at one commit (`REVISIONS`). What was downloaded is compared
    with its hash, and what differs is thrown away. Weights are read from safetensors only, never from pickle, and no
    code from the model is run. Nothing is printed on stderr but the progress of a download. If a GPU is short of
    memory, what was done about it is printed. Where it cannot hold all the weights, "auto" says so and takes Pocket,
    and by another name each part waits in main memory until it is called. That suits the pipeline and our helpers, but
    not the lessons' own loops, which put their tensors on `pipe.device` and call the layers inside a part.

    Raises ValueError for a name, folder, file, device or dtype that cannot work, and for weights that are missing or
    damaged; ConnectionError if the hub cannot be reached or a download arrives damaged; PermissionError if the hub
    wants a login; OSError if the disk is full; MemoryError if the device's memory is.
    """
    device = _checked_device(device)
    dtype = best_dtype(device) if dtype is None else dtype
    if dtype not in DTYPES:
        raise ValueError(f"Unknown dtype {dtype!r}: choose one of {', '.join(map(str, DTYPES))}")
    if name != "auto":
        return _placed(_read(name, dtype, safety_checker), device)
    chosen = os.environ.get(CHOICE, "auto") or "auto"
    if chosen != "auto":
        print(f"{CHOICE} is set, so this is {chosen}.")
        return _placed(_read(chosen, dtype, safety_checker), device, offload=False)
    if device.type == "cuda":
        try:
            return _placed(_read("sd15", dtype, safety_checker), device, offload=False)
        except (OSError, ValueError, MemoryError) as error:
            print(f"Stable Diffusion 1.5 could not be had, so this is Pocket Diffusion instead: {error}")
    return _placed(_read("pocket", dtype, safety_checker), device, offload=False)


@contextmanager
def memory_advice() -> Iterator[None]:
    """Turn a full GPU into a MemoryError that says in one sentence what helps, and give back what can be given back."""
    try:
        yield
    except RuntimeError as error:  # torch.OutOfMemoryError is one; Apple's MPS has no class of its own for it
        mps = "MPS backend out of memory" in str(error)
        if not (isinstance(error, torch.OutOfMemoryError) or mps):
            raise
        # The traceback holds the tensors of every function it passed through: without it they can be freed.
        cause = error.with_traceback(None)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        raise MemoryError(FULL.format(kind="Mac's GPU" if mps else "GPU")) from cause


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
    lines = [f"{hub.sha256(folder / path)}  {path.as_posix()}\n" for path in listed]
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
        if hub.sha256(path) != expected:
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


def _read(name: str | Path, dtype: torch.dtype, safety_checker: bool) -> "StableDiffusionPipeline":
    """The pipeline of this name, in main memory."""
    if name == "pocket":
        return _from_folder(POCKET, dtype, safety_checker)
    text = KNOWN.get(name, name) if isinstance(name, str) else str(name)
    path = Path(text).expanduser()
    if text and path.is_dir():
        return _from_folder(path, dtype, safety_checker)
    if path.is_file():
        return _from_single_file(path, dtype)
    if isinstance(name, str) and HUB_ID.fullmatch(text) and not text.endswith(".safetensors"):
        return _from_hub(text, dtype, safety_checker)
    if isinstance(name, Path) or "/" in text or "\\" in text or text.endswith(".safetensors"):
        raise ValueError(f"There is no folder or file {text!r}: choose {CHOICES}")
    near = difflib.get_close_matches(text.lower(), ["auto", "pocket", *KNOWN], n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    raise ValueError(f"Unknown model {text!r}{hint}: choose {CHOICES}")


def _cure(folder: Path) -> str:
    if folder.resolve() == POCKET.resolve():
        return "restore it with `git checkout -- models/pocket-diffusion`, or clone the course again"
    if folder.parent.name == "snapshots":  # of the hub's cache: repository / snapshots / commit
        return f"delete {folder.parent.parent} and load it again"
    return "copy or download the folder again"


def _check_folder(folder: Path, safety_checker: bool) -> None:
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
        if not isinstance(value, list) or value[0] is None or (name == "safety_checker" and not safety_checker):
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


def _from_folder(
    folder: Path, dtype: torch.dtype, safety_checker: bool, name: str | None = None
) -> "StableDiffusionPipeline":
    """name: what to call the pipeline, if not by its folder."""
    from safetensors import SafetensorError

    _check_folder(folder, safety_checker)
    without = {} if safety_checker else {"safety_checker": None, "requires_safety_checker": False}
    try:
        with quiet():
            from diffusers import StableDiffusionPipeline  # here, because importing it prints advice on torchvision

            pipe = StableDiffusionPipeline.from_pretrained(str(folder), use_safetensors=True, dtype=dtype, **without)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ValueError(
            f"The weights in {folder} are damaged or do not fit its configuration: {_cure(folder)}"
        ) from error
    lost = _lost_tensor(pipe, folder)
    if lost is not None:
        raise ValueError(f"The weights in {folder} are damaged ({lost} is not among them): {_cure(folder)}")
    if name is not None:
        pipe.register_to_config(_name_or_path=name)
    if pipe.safety_checker is not None:
        print(
            f"{pipe.name_or_path} brings a safety checker, and it is on: pictures that it takes for sexual content "
            "come out black. It errs both ways. safety_checker=False leaves it out, and you judge what is drawn."
        )
    return pipe


def _placed(
    pipe: "StableDiffusionPipeline", device: torch.device, *, offload: bool = True
) -> "StableDiffusionPipeline":
    """The pipeline on its device; if that is short of memory, with what helps switched on, and said.

    offload: let parts wait in main memory as the last resort; without, MemoryError if the weights leave no room.
    """
    weights = sum(
        tensor.nbytes
        for part in pipe.components.values()
        if isinstance(part, torch.nn.Module)
        for tensor in part.parameters()
    )
    free = _free_memory(device)
    with memory_advice():
        if free is None or free >= weights + ROOM:
            return pipe.to(device)
        tight = device.type == "cuda" and free < weights + LEAST
        if tight and not offload:
            raise MemoryError(
                f"The GPU has {free / GIB:.1f} GB free and this model needs {(weights + LEAST) / GIB:.1f} GB: shut "
                "down other notebooks that use it, or load the pipeline with safety_checker=False or device='cpu'"
            )
        # A part of the attention at a time, and one picture: slower, the same but for rounding.
        pipe.enable_attention_slicing()
        pipe.vae.enable_slicing()
        done = "attention is computed in slices, which is slower"
        if tight:
            pipe.enable_model_cpu_offload(device=device)
            done += (
                ", and each part waits in main memory until it is needed, so that pipe.device is the CPU: loops of "
                "your own, as in the lessons, do not work so"
            )
        else:
            pipe.to(device)
    print(
        f"Memory is short ({free / GIB:.1f} GB free, {weights / GIB:.1f} GB of weights, about {ROOM / GIB:.0f} GB more "
        f"to draw): {done}"
    )
    return pipe


def _free_memory(device: torch.device) -> int | None:
    """Bytes that a GPU has left for a pipeline; None on the CPU, where the system knows best."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "mps":  # shares the main memory; this is the part that Apple advises to use at most
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    return None


def _lost_tensor(pipe: "StableDiffusionPipeline", folder: Path) -> str | None:
    """The name of a weight that the files lack, if any: the libraries put an empty or a random one in its place."""
    from safetensors import safe_open

    for part in ("unet", "vae"):
        for name, tensor in getattr(pipe, part).named_parameters():
            if tensor.is_meta:
                return f"{part}.{name}"
    for part in ("text_encoder", "safety_checker"):
        if getattr(pipe, part) is None:
            continue
        stored: set[str] = set()
        for path in (folder / part).glob("*.safetensors"):
            with safe_open(path, framework="pt") as file:
                stored |= {_short(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        for name, _ in getattr(pipe, part).named_parameters():
            if _short(name) not in stored:
                return f"{part}.{name}"
    return None


def _short(name: str) -> str:
    """A weight's name without the prefixes that transformers dropped in 5.6 (once or twice in older files)."""
    return name.removeprefix("text_model.").removeprefix("vision_model.").removeprefix("vision_model.")


def _from_single_file(path: Path, dtype: torch.dtype) -> "StableDiffusionPipeline":
    """A checkpoint of Stable Diffusion 1 in one file, by the names of the original code.

    The file holds weights alone: no configuration, no tokenizer (a megabyte and a half), no safety checker. What is
    missing is that of Stable Diffusion 1.5, from the hub or its cache.
    """
    from safetensors import SafetensorError, safe_open

    if path.suffix in PICKLES:
        raise ValueError(f"{path} is a pickle, which can run code when loaded: choose a model in .safetensors")
    if path.suffix != ".safetensors":
        raise ValueError(f"{path} is no model: choose {CHOICES}")
    try:
        with safe_open(path, framework="pt") as file:
            stored = set(file.keys())
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged: copy or download it again") from error
    missing = [part for part, weight in SINGLE_FILE.items() if weight not in stored]
    if missing:
        raise ValueError(
            f"{path} has no {' and no '.join(missing)} of Stable Diffusion 1: choose a whole checkpoint, not a part, "
            "an add-on or another model, or the folder of a pipeline"
        )
    settings = _ask_hub(f"the settings for {path.name}", KNOWN["sd15"], _download_settings)
    try:
        with quiet():
            from diffusers import StableDiffusionPipeline

            pipe = StableDiffusionPipeline.from_single_file(
                str(path),
                config=str(settings),
                local_files_only=True,
                torch_dtype=dtype,
                safety_checker=None,
                requires_safety_checker=False,
            )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ValueError(
            f"The weights in {path} are damaged, or not those of a Stable Diffusion 1: choose another file"
        ) from error
    for part in ("unet", "vae", "text_encoder"):
        for weight, tensor in getattr(pipe, part).named_parameters():
            if tensor.is_meta:
                raise ValueError(f"The weights in {path} are damaged ({part}.{weight} is not among them)")
    pipe.register_to_config(_name_or_path=str(path))
    print(f"{path.name} brings no safety checker, as no single file does: what is drawn is for you to judge.")
    return pipe


def _download_settings(name: str, **options: Any) -> str:
    """Everything of a pipeline in the hub but its weights: a folder in the cache."""
    from huggingface_hub import snapshot_download

    return snapshot_download(name, allow_patterns=["*.json", "*.txt"], **options)


def _from_hub(name: str, dtype: torch.dtype, safety_checker: bool) -> "StableDiffusionPipeline":
    def download(name: str, **options: Any) -> str:
        from diffusers import StableDiffusionPipeline

        if not safety_checker:
            options["safety_checker"] = None  # not even downloaded
        return StableDiffusionPipeline.download(name, use_safetensors=True, **options)

    folder = _ask_hub(name, name, download)
    return _from_folder(folder, dtype, safety_checker, name)  # rather than a folder deep in the cache


def _ask_hub(asked: str, name: str, download: Callable[..., str]) -> Path:
    with quiet():
        return hub.fetch(asked, name, download, revision=REVISIONS.get(name), choices=CHOICES)
