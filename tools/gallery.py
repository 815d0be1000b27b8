"""Every kind of figure, diagram, viewer and question once, on one page, to look at: `python -m tools.gallery FOLDER`.

Writes and runs `gallery.ipynb` in the folder, on Pocket Diffusion, and makes an HTML page of it, as nbconvert does.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from helpers.exercises import EXERCISES, QUIZZES
from tools.execute_notebooks import ROOT, execute

SETUP = """\
import numpy as np
import torch

from helpers import attention, exercises, plots
from helpers.latents import decode, encode
from helpers.loading import load_pipeline
from helpers.pictures import generate
from helpers.sampling import run
from helpers.viewers import run_viewer, step_viewer

_ = torch.set_grad_enabled(False)
pipe = load_pipeline("pocket", device="cpu")
pipe.set_progress_bar_config(disable=True)
prompt = "a fox on a blue background, flat style"
fox = run(pipe, prompt, steps=20, seed=0)
house = run(pipe, "a house on a green background, noto style", steps=20, seed=0)
alpha_bar = pipe.scheduler.alphas_cumprod
some = [fox.steps[i] for i in (0, 4, 8, 11, 15, 19)]
estimates = decode(pipe, torch.cat([step.x0 for step in some]))
noisy = decode(pipe, torch.cat([step.latents for step in some]))
"""
# A head for each part, and the cells below it: code, or a text that begins with a sign of Markdown.
PARTS = {
    "Pictures, large": [
        'prompts = ["a pizza", "an owl on a green background", "a cat left of a dog"]\n'
        "pictures = [generate(pipe, text, steps=20, seed=i)[0] for i, text in enumerate(prompts)]\n"
        'plots.show(plots.grid([pictures], side=256), "A pizza, an owl on green, and a cat left of a dog.")'
    ],
    "A film strip with rows": [
        'heads = [f"t = {step.t}" for step in some]\n'
        'figure = plots.grid([noisy, estimates], names=["x_t", "x0 estimate"], heads=heads)\n'
        'plots.show(figure, "Above, the latent decoded as it is; below, what the network takes it for.")'
    ],
    "Numbers under tiles": [
        "counts = (2, 5, 20)\n"
        'heads = [f"{n} steps" for n in counts]\n'
        "ends = [run(pipe, prompt, steps=n, seed=0).latents for n in counts]\n"
        'numbers = [[f"std {float(end.std()):.2f}" for end in ends]]\n'
        "figure = plots.grid([decode(pipe, torch.cat(ends))], heads=heads, numbers=numbers, side=256)\n"
        'plots.show(figure, "Two steps, five and twenty; under each the standard deviation of its latent.")'
    ],
    "Before, after and what changed": [
        "before = estimates[-1]\n"
        "after = decode(pipe, encode(pipe, before))[0]\n"
        "change = plots.difference(before, after)\n"
        'below = [["", "", f"at most {change.values.max():.0f} of 255"]]\n'
        'heads = ["before", "after the VAE", "changed by"]\n'
        'figure = plots.grid([[before, after, change]], heads=heads, numbers=below, side=256, scale="of 255")\n'
        'plots.show(figure, "A picture, the same after the VAE, and how much each pixel changed.")'
    ],
    "Maps on one scale": [
        'heads = ["decoded", *(f"channel {i}" for i in range(4))]\n'
        "figure = plots.grid([[estimates[-1], *map(plots.Map, fox.latents[0])]], heads=heads)\n"
        'plots.show(figure, "The fox, and the four channels of its latent, blue below zero and red above.")',
        "ends = {'fox': fox, 'house': house}\n"
        "apart = np.array([[float((step.x0 - run.latents).std()) for step in run.steps] for run in ends.values()])\n"
        "heads = [str(step.t) if i % 3 == 0 else '' for i, step in enumerate(fox.steps)]\n"
        'figure = plots.heat_map(plots.Map(apart, "distance"), names=list(ends), heads=heads, scale="distance")\n'
        'plots.show(figure, "Two runs of 20 steps, their t above: the redder, the farther the x0 "\n'
        '           "estimate is from the latent at the end.")',
    ],
    "Attention over a picture": [
        'asked = "a fox left of a pizza on a white background"\n'
        "with attention.capture(pipe) as record:\n"
        "    picture = generate(pipe, asked, steps=20, seed=0)[0]\n"
        'words = ("fox", "pizza")\n'
        "maps = {word: [record.word(asked, word, layer=layer) for layer in record.layers] for word in words}\n"
        "largest = max(float(record.word(asked, word).max()) for word in words)\n"
        "tiles = [picture, *(plots.attention(picture, shares, largest) for shares in maps.values())]\n"
        "figure = plots.grid([tiles], heads=['picture', *maps], side=256)\n"
        'plots.show(figure, f"How much of its attention each place gives to a word, as the mean of all layers and "\n'
        '           f"steps: none where the picture is only greyed, {largest:.0%} where it is fully green.")'
    ],
    "Curves": [
        "t = np.arange(1000)\n"
        'curves = {"signal": alpha_bar.sqrt(), "noise": (1 - alpha_bar).sqrt()}\n'
        'roles, marks = {"signal": "x0", "noise": "eps"}, [("signal", 354, "SNR = 1, t = 354")]\n'
        'figure = plots.lines(t, curves, xlabel="timestep t (of 1000)", ylabel="factor", roles=roles, marks=marks)\n'
        'plots.show(figure, "The factors of signal and noise over t; they are equal at t = 354.")',
        "counts = np.array([5, 10, 20, 40, 80])\n"
        "dice = np.random.default_rng(0).standard_normal((8, 200, 80))  # 8 seeds, 200 tries each\n"
        'ways = {"median": np.median, "mean": np.mean}\n'
        "errors = {\n"
        "    name: np.stack([way(dice[..., :n], axis=2).std(axis=1) for n in counts], axis=1)\n"
        "    for name, way in ways.items()\n"
        "}\n"
        'figure = plots.lines(counts, errors, xlabel="numbers", ylabel="error", logx=True, logy=True, width=440)\n'
        'plots.show(figure, "How far the mean and the median of n random numbers are from 0, for eight seeds.")',
        'panels = {"factors": curves, "their squares": {name: line**2 for name, line in curves.items()}}\n'
        'figure = plots.multiples(t, panels, xlabel="timestep t", ylabel="value", roles=roles, falling=True)\n'
        'plots.show(figure, "The same factors and their squares, as a run meets them: from t = 999 down.")',
    ],
    "Viewers": [
        'labels = [f"step {i} of 20, t = {step.t}" for i, step in enumerate(fox.steps, 1)]\n'
        "frames = [decode(pipe, torch.cat([r.steps[i].x0 for r in (fox, house)])) for i in range(20)]\n"
        'step_viewer([tuple(pair) for pair in frames], labels, names=["a fox", "a house"])',
        "run_viewer(pipe, fox.steps[::2])",
    ],
}


def gallery(folder: Path) -> nbformat.NotebookNode:
    """The notebook, not yet run, with links to diagrams as they are seen from its folder."""
    cells = [new_markdown_cell("# Gallery"), new_code_cell(SETUP.rstrip())]
    for head, sources in PARTS.items():
        cells.append(new_markdown_cell(f"## {head}"))
        cells += [new_code_cell(source) for source in sources]
    cells.append(new_markdown_cell("## Questions"))
    cells += [new_code_cell(f'exercises.quiz("{name}")') for name in QUIZZES]
    hinted = next(exercise.name for exercise in EXERCISES.values() if exercise.hints)
    cells.append(new_code_cell(f'exercises.hint("{hinted}")'))
    cells.append(
        new_markdown_cell(
            "**What do you expect?** Is the angle between the two answers nearer to 90°, 30° or 3°?\n\n"
            "<details><summary>Answer</summary>\n\n3.6°.\n\n</details>"
        )
    )
    for path in sorted((ROOT / "images" / "diagrams").glob("*.svg")):
        link = Path(os.path.relpath(path, folder)).as_posix()
        cells.append(new_markdown_cell(f"## Diagram: {path.stem}\n\n![{path.stem}]({link})"))
    return new_notebook(cells=cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "gallery.ipynb"
    notebook = gallery(folder.resolve())
    nbformat.write(notebook, path)
    nbformat.write(execute(path, folder=folder), path)
    subprocess.run([sys.executable, "-m", "nbconvert", "--to", "html", str(path)], check=True)


if __name__ == "__main__":
    main()
