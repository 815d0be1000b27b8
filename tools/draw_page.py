"""What the site's page to draw on loads, beside the programs in `site/try`: Pocket Diffusion, what runs it, and words.

`tools.build_site` calls it. Nothing on that page is written twice: its sentences, bounds and words are
asked of the checks and the grammar that the notebooks use.
"""

import gzip
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from diffusers import DDIMScheduler
from transformers import CLIPTokenizer

from helpers import grammar, inputs, scenes
from helpers.latents import DIVERGING
from helpers.model_folder import POCKET
from helpers.playground import EXAMPLE, draw
from tools import export_onnx

ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = ROOT / "site" / "try"
OFFLINE = "try-offline.js"  # a service worker answers for addresses below its own, so it stands beside try.html
LIBRARY, ENGINE = "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"  # what `make onnxruntime` fetches
EXPORTED = ROOT / "runs" / "onnx"  # kept from build to build


class Blank:
    """A value that no check accepts, and that a sentence names as a place to fill in."""

    def __repr__(self) -> str:
        return "{value}"


def refusal(check: Callable, *arguments: Any) -> str:
    """The sentence with which a check refuses its arguments. Raises AssertionError if it accepts them."""
    try:
        check(*arguments)
    except ValueError as error:
        return f"{error}."
    raise AssertionError(f"{check.__name__} accepts {arguments}")


def accepts(check: Callable, *arguments: Any) -> bool:
    try:
        check(*arguments)
    except ValueError:
        return False
    return True


def with_places(sentence: str, **filled: str) -> str:
    """A finished sentence with names in braces for what was filled in: place="text that stands there"."""
    for place, text in filled.items():
        if sentence.count(text) != 1:
            raise ValueError(f"{text} is not once in: {sentence}")
        sentence = sentence.replace(text, f"{{{place}}}")
    return f"{sentence}."


class _Pocket:
    """As much of a pipeline as `inputs.prompt_notes` asks of one, without loading any weights."""

    def __init__(self) -> None:
        self.tokenizer = CLIPTokenizer.from_pretrained(POCKET / "tokenizer")
        self.name_or_path, self.unet = str(POCKET), None


def sentences() -> dict[str, str]:
    """What the page says of what is wrong or odd, with {value} and the like for what is filled in."""
    pocket, slip, far = _Pocket(), "foxx", "qqqq"
    long = " ".join(["fox"] * pocket.tokenizer.model_max_length)
    (near,) = inputs.prompt_notes(pocket, slip)
    names = ", ".join(map(repr, grammar.unknown_words(slip)[slip]))
    (cut,) = inputs.prompt_notes(pocket, long)
    (unheard,) = inputs.prompt_notes(pocket, far)
    return {
        "empty": refusal(draw, pocket, ""),
        "steps": refusal(inputs.check_steps, Blank(), DDIMScheduler.from_pretrained(POCKET / "scheduler")),
        "guidance": refusal(inputs.check_pipeline_guidance, Blank()),
        "guidanceTooLow": refusal(inputs.check_pipeline_guidance, 0.5).replace("0.5", "{value}"),
        "seed": refusal(inputs.check_seed, Blank()),
        "cut": with_places(cut, cut=repr(inputs.cut_text(pocket.tokenizer, long))),
        "near": with_places(near, word=repr(slip), near=names),
        "far": with_places(unheard, words=repr(far)),
    }


def limits() -> dict[str, dict[str, Any]]:
    """The bounds of the numbers that the page takes: what the checks accept, tried out."""
    scheduler = DDIMScheduler.from_pretrained(POCKET / "scheduler")
    steps = [n for n in range(scheduler.config.num_train_timesteps + 1) if accepts(inputs.check_steps, n, scheduler)]
    scales = np.arange(0, 2 * inputs.MAX_GUIDANCE, 0.5)
    guidance = [float(scale) for scale in scales if accepts(inputs.check_pipeline_guidance, float(scale))]
    seed = max(2**bits - 1 for bits in range(128) if accepts(inputs.check_seed, 2**bits - 1))
    return {
        "steps": {"least": steps[0], "most": steps[-1]},
        "guidance": {"least": guidance[0], "most": guidance[-1]},
        "seed": {"most": str(seed)},  # more digits than a number in JSON keeps
    }


def words() -> dict[str, Any]:
    """The words of `helpers/grammar.py`, as `site/try/grammar.js` wants them."""
    return {
        "things": grammar.THINGS,
        "coloured": grammar.COLOURED,
        "relations": list(scenes.RELATIONS),
        "grounds": list(scenes.GROUNDS.values()),
        "styles": list(scenes.STYLES),
        "completed": list(dict.fromkeys([*scenes.WORDS, *scenes.COLOURS, *scenes.PLAIN, *scenes.STYLES])),
        "known": grammar._vocabulary(),
    }


def settings(files: dict[str, str], sizes: dict[str, int]) -> dict[str, Any]:
    """All that the page's programs are told, for `model.json`. files: the names in its folder; sizes: in bytes."""
    unet = json.loads((POCKET / "unet" / "config.json").read_text())
    return {
        "files": files,
        "sizes": sizes,
        "shape": [unet["in_channels"], unet["sample_size"], unet["sample_size"]],  # of latents
        "width": json.loads((POCKET / "text_encoder" / "config.json").read_text())["hidden_size"],
        "scheduler": json.loads((POCKET / "scheduler" / "scheduler_config.json").read_text()),
        "guidance": inputs.POCKET_GUIDANCE,
        "example": EXAMPLE,
        "words": words(),
        "sentences": sentences(),
        "limits": limits(),
        "colours": matplotlib.colormaps[DIVERGING](range(256), bytes=True)[:, :3].tolist(),  # from - to +
    }


def runtime() -> Path:
    """The folder of onnxruntime-web, whose version is in the Makefile. Raises FileNotFoundError if it is missing."""
    for folder in ROOT.glob("runs/onnxruntime-web-*"):
        if (folder / LIBRARY).is_file() and (folder / ENGINE).is_file():
            return folder
    raise FileNotFoundError("onnxruntime-web, which draws in the browser, is not there: run `make onnxruntime`")


def copy_programs(folder: Path) -> None:
    """Put the page's own programs into the folder of a site."""
    shutil.copytree(PROGRAMS, folder / "try", ignore=shutil.ignore_patterns(OFFLINE))
    shutil.copy(PROGRAMS / OFFLINE, folder)


def add_model(folder: Path, exported: Path = EXPORTED) -> None:
    """Put beside them what they load. Raises FileNotFoundError where onnxruntime-web is missing.

    exported: where the networks are, or will be once this has made them.
    """
    onnxruntime, to = runtime(), folder / "try"
    shutil.copy(POCKET / "tokenizer" / "tokenizer.json", to)
    shutil.copy(onnxruntime / LIBRARY, to / "onnxruntime.js")
    engine = (onnxruntime / ENGINE).read_bytes()
    files = {"engine": f"engine-{hashlib.sha256(engine).hexdigest()[:12]}.gzip"}
    (to / files["engine"]).write_bytes(gzip.compress(engine, mtime=0))
    for part, path in export_onnx.export(exported).items():
        files[part] = path.name
        shutil.copy(path, to)
    sizes = {name: (to / name).stat().st_size for name in files.values()}
    text = json.dumps(settings(files, sizes), ensure_ascii=False)
    (to / "model.json").write_text(text, encoding="utf-8")
