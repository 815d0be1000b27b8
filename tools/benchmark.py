"""Measure the course on the machine at hand: `make bench` prints a table and writes tools/benchmark.md.

    python -m tools.benchmark [--model NAME_OR_FOLDER] [--output FILE] [--lessons]

Everything runs on the CPU in float32, as it does for a learner without a GPU. Each part is measured in a process of its
own, so that no part's memory counts for another. Nothing here asserts a speed: the figures are for reading.
"""

import argparse
import contextlib
import datetime
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROMPT = "a fox on a blue background"
STEPS = 20
GUIDANCE = 4.0
PICTURES = 5
CALLS = 20
PAIRS = 9
GEMM_SIZE = 3072


def cpu_name() -> str:
    """The processor's name as its maker writes it, or what Python knows of it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return platform.processor() or platform.machine()


def usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def peak_memory_mb(who: int = resource.RUSAGE_SELF) -> float:
    """The most memory that this process, or one of its children, has held so far, in MB.

    macOS counts in bytes, Linux in KiB.
    """
    peak = resource.getrusage(who).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def seconds(function, times: int) -> list[float]:
    """The seconds of each of `times` calls of `function`, after one call that is not counted."""
    function()
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        function()
        taken.append(time.perf_counter() - start)
    return taken


def measure_gemm(model: str) -> dict:
    """GFLOP/s of the best of several large float32 matrix products: what this machine can do, with any `model`."""
    import torch

    a, b = torch.randn(2, GEMM_SIZE, GEMM_SIZE)
    out = torch.empty_like(a)
    best = min(seconds(lambda: torch.mm(a, b, out=out), 7))
    return {"gemm": 2 * GEMM_SIZE**3 / best / 1e9, "torch": torch.__version__, "threads": torch.get_num_threads()}


def unet_gflop(unet, inputs) -> float:
    """GFLOP of one forward pass, attention written out as matrix products so that the counter sees all of it."""
    from diffusers.models.attention_processor import AttnProcessor
    from torch.utils.flop_counter import FlopCounterMode

    own_processors = unet.attn_processors
    unet.set_attn_processor(AttnProcessor())
    with FlopCounterMode(display=False) as counter:
        unet(*inputs)
    unet.set_attn_processor(own_processors)
    return counter.get_total_flops() / 1e9


def measure_pictures(model: str) -> dict:
    """Load the pipeline, draw with it, then time the U-Net and the VAE's decoder on their own."""
    start = time.perf_counter()
    import torch
    from diffusers import StableDiffusionPipeline  # noqa: F401, so that its import is not counted as loading

    from helpers.loading import load_pipeline

    imported = time.perf_counter()
    pipe = load_pipeline(model)
    loaded = time.perf_counter()
    if (pipe.device.type, pipe.dtype) != ("cpu", torch.float32):
        pipe = pipe.to("cpu", torch.float32)
    pipe.set_progress_bar_config(disable=True)

    def draw():
        generator = torch.Generator().manual_seed(0)
        return pipe(PROMPT, num_inference_steps=STEPS, guidance_scale=GUIDANCE, generator=generator).images[0]

    figures = {"import": imported - start, "load": loaded - imported}
    figures["picture"] = statistics.median(seconds(draw, PICTURES))
    figures["peak"] = peak_memory_mb()  # before the parts below add anything
    figures["size"] = list(draw().size)

    unet, vae = pipe.unet, pipe.vae
    side = unet.config.sample_size
    latents = torch.randn(2, unet.config.in_channels, side, side)
    text = torch.randn(2, pipe.tokenizer.model_max_length, unet.config.cross_attention_dim)
    with torch.no_grad():
        figures["gflop"] = unet_gflop(unet, (latents[:1], 500, text[:1]))
        guided = statistics.median(seconds(lambda: unet(latents, 500, text), CALLS))
        decoding = statistics.median(seconds(lambda: vae.decode(latents[:1]), CALLS))
    return figures | {
        "guided": guided,
        "decode": decoding,
        "parameters": {
            "text encoder": sum(p.numel() for p in pipe.text_encoder.parameters()),
            "U-Net": sum(p.numel() for p in unet.parameters()),
            "VAE": sum(p.numel() for p in vae.parameters()),
        },
    }


def measure_denoise(model: str) -> dict:
    """Seconds of the pipeline's own loop and of `denoise` keeping every Step, in turns; latents only, none decoded.

    In turns, because what else the machine does would otherwise count for one of them. One pair goes before, uncounted.
    """
    import torch

    from helpers.loading import load_pipeline
    from helpers.sampling import run

    pipe = load_pipeline(model, device="cpu", dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)

    def library():
        generator = torch.Generator().manual_seed(0)
        options = {"guidance_scale": GUIDANCE, "generator": generator, "output_type": "latent"}
        return pipe(PROMPT, num_inference_steps=STEPS, **options).images

    def recorded():
        return run(pipe, PROMPT, steps=STEPS, guidance=GUIDANCE, seed=0)

    figures = {"library": [], "recorded": []}
    for pair in range(PAIRS + 1):
        # Each goes first in every other pair: the second finds the caches warm.
        for function in (library, recorded) if pair % 2 else (recorded, library):
            start = time.perf_counter()
            function()
            figures[function.__name__].append(time.perf_counter() - start)
    return {name: statistics.median(taken[1:]) for name, taken in figures.items()}


def measure_lesson(path: str) -> dict:
    """Run the lesson at `path` in a temporary copy of its folder: its seconds, and the most memory its kernel held."""
    from tools.execute_notebooks import execute

    with tempfile.TemporaryDirectory() as folder:
        ignore = shutil.ignore_patterns("pictures", ".ipynb_checkpoints")
        copy = shutil.copytree(ROOT / "notebooks", Path(folder) / "notebooks", ignore=ignore)
        start = time.perf_counter()
        execute(Path(path), folder=copy)
        taken = time.perf_counter() - start
    return {"seconds": taken, "peak": peak_memory_mb(resource.RUSAGE_CHILDREN)}


PARTS = {
    "gemm": measure_gemm,
    "pictures": measure_pictures,
    "denoise": measure_denoise,
    "lesson": measure_lesson,
}


def measure_apart(part: str, model: str) -> dict:
    """Run one part of this file in a process of its own and read the figures it prints last.

    model: what the part is about: a model, or for "lesson" the path of one.
    """
    command = [sys.executable, "-m", "tools.benchmark", "--part", part, "--model", model]
    child = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if child.returncode:
        raise SystemExit(child.returncode)
    return json.loads(child.stdout.splitlines()[-1])


def lesson_rows() -> list[tuple[str, str]]:
    """For every lesson its seconds, its peak memory and the size of the committed file; then the sum of the seconds."""
    rows, total = [], 0.0
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        lesson = measure_apart("lesson", str(path))
        total += lesson["seconds"]
        size = path.stat().st_size / 1000
        rows.append((f"lesson {path.stem}", f"{lesson['seconds']:.0f} s, {lesson['peak']:.0f} MB, file {size:.0f} kB"))
    return [*rows, ("all lessons", f"{total / 60:.1f} minutes")]


def picture_rows(gemm: dict, pocket: dict) -> list[tuple[str, str]]:
    rate = 2 * pocket["gflop"] / pocket["guided"]
    width, height = pocket["size"]
    parameters = ", ".join(f"{name} {count / 1e6:.1f} M" for name, count in pocket["parameters"].items())
    return [
        ("parameters", parameters),
        ("import the libraries", f"{pocket['import']:.1f} s"),
        ("load the pipeline", f"{pocket['load']:.2f} s"),
        (f"one picture, {width} x {height}, {STEPS} steps, with guidance", f"{pocket['picture']:.2f} s"),
        ("peak memory of the whole process", f"{pocket['peak']:.0f} MB"),
        ("U-Net, one forward pass", f"{pocket['gflop']:.2f} GFLOP"),
        ("U-Net, one guided call (batch of 2)", f"{1000 * pocket['guided']:.1f} ms, {rate:.0f} GFLOP/s"),
        ("float32 matrix product, best", f"{gemm['gemm']:.0f} GFLOP/s"),
        ("U-Net as a fraction of that", f"{rate / gemm['gemm']:.0%}"),
        ("VAE, one latent decoded", f"{1000 * pocket['decode']:.1f} ms"),
    ]


def denoise_rows(denoise: dict) -> list[tuple[str, str]]:
    library, recorded = denoise["library"], denoise["recorded"]
    return [
        (
            f"{STEPS} steps with `denoise()`, keeping all of each, against the pipeline's own",
            f"{recorded:.2f} s and {library:.2f} s, {recorded / library:.3f} times",
        )
    ]


def report(model: str, gemm: dict, rows: list[tuple[str, str]]) -> str:
    """The figures and the machine they belong to, as Markdown."""
    system = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}, torch {gemm['torch']}"
    table = "\n".join(f"| {name} | {value} |" for name, value in rows)
    # The name of a model in some folder would put one machine's path into a committed file.
    model = Path(model).name
    return f"""# What it takes to run `{model}`

Written by `make bench` on {datetime.date.today()}; medians after a warm-up, on the CPU in float32.

Machine: {cpu_name()}, {usable_cores()} cores ({gemm["threads"]} threads used); {system}.

| what | measured |
| --- | --- |
{table}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="pocket", help="what load_pipeline takes: a name or a folder")
    parser.add_argument("--output", type=Path, default=ROOT / "tools" / "benchmark.md")
    parser.add_argument("--lessons", action="store_true", help="also run every lesson and time it")
    parser.add_argument("--part", choices=sorted(PARTS), help=argparse.SUPPRESS)
    options = parser.parse_args()

    if options.part:
        print(json.dumps(PARTS[options.part](options.model)))
        return
    if options.model == "pocket" and not (ROOT / "models" / "pocket-diffusion" / "model_index.json").is_file():
        raise SystemExit(
            "There is no model to measure: models/pocket-diffusion has no model_index.json. "
            "Train it (see training/) or measure another pipeline with --model FOLDER."
        )
    gemm = measure_apart("gemm", options.model)
    rows = picture_rows(gemm, measure_apart("pictures", options.model))
    rows += denoise_rows(measure_apart("denoise", options.model))
    if options.lessons:
        rows += lesson_rows()
    text = report(options.model, gemm, rows)
    options.output.write_text(text, encoding="utf-8")
    print(f"{text}\nWritten to {options.output}")


if __name__ == "__main__":
    main()
