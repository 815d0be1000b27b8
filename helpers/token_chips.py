"""How a tokenizer cuts words: its merges one by one, and pieces of text as chips in rows."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from helpers.palette import ROLES
from helpers.picture_grids import LABEL, NAMES, PADDING, PER_INCH, STYLE, WIDEST, _name_row, hairline

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LETTER, SIDES, APART = 8.3, 9, 5  # pixels: a letter's width, room left and right of a chip's text, between two chips
HIGH, BETWEEN = 26, 9  # pixels: a chip, and between two rows


def merging(tokenizer: "PreTrainedTokenizerBase", word: str) -> list[list[str]]:
    """The pieces of a word as byte pair encoding joins them: its letters, then a row for each merge, last its tokens.

    tokenizer: one of CLIP's kind, whose merges are replayed in their order: where two pieces of a pair stand side by
    side, they are joined. Sennrich et al. (2016), arXiv:1508.07909, algorithm 1. The last piece ends in `</w>`.
    word: one word; for a letter beyond ASCII each of its bytes is a piece. Raises ValueError for none, or for several.
    """
    splitter = tokenizer.backend_tokenizer
    words = splitter.pre_tokenizer.pre_tokenize_str(splitter.normalizer.normalize_str(word))
    if len(words) != 1:
        raise ValueError(f"{word!r} is {len(words)} words to the tokenizer: give one")
    letters = words[0][0]
    rows = [[*letters[:-1], f"{letters[-1]}</w>"]]
    for pair in json.loads(splitter.to_str())["model"]["merges"]:
        pieces, joined, i = rows[-1], [], 0
        while i < len(pieces):
            width = 2 if pieces[i : i + 2] == list(pair) else 1
            joined.append("".join(pieces[i : i + width]))
            i += width
        if len(joined) < len(pieces):
            rows.append(joined)
    return rows


def chips(rows: Sequence[Sequence[str]], *, names: Sequence[str] = ()) -> Figure:
    """Rows of chips in the green of words.

    rows: the texts of each row's chips. names: one for each row, at the left.

    A row that is wider than a page goes on in the next line. Raises ValueError for no chips, and for names that do not
    match the rows.
    """
    if not rows or not all(rows):
        raise ValueError("There are no chips to draw: give at least one in each row")
    if names and len(names) != len(rows):
        raise ValueError(f"There are {len(names)} names for {len(rows)} rows")
    left, step = PADDING + NAMES * bool(names), HIGH + BETWEEN
    lines: list[tuple[str, list[tuple[str, float]]]] = []  # each with its name, its chips with their width
    for r, row in enumerate(rows):
        lines.append((names[r] if names else "", []))
        for text in row:
            size = len(text) * LETTER + 2 * SIDES
            if left + _length(lines[-1][1]) + size > WIDEST - PADDING:
                lines.append(("", []))
            lines[-1][1].append((text, size))

    width = left + max(_length(line) for _, line in lines) - APART + PADDING
    height = 2 * PADDING + len(lines) * step - BETWEEN
    ink, tint = ROLES["words"].ink, ROLES["words"].tint
    with plt.style.context(STYLE):
        figure = plt.figure(figsize=(width / PER_INCH, height / PER_INCH))
        axis = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
        axis.set_axis_off()
        for number, (name, line) in enumerate(lines):
            x, top = left, PADDING + number * step
            if name:
                _name_row(figure, name, left, top + HIGH / 2)
            for text, size in line:
                box = FancyBboxPatch((x, top), size, HIGH, boxstyle="round,pad=0,rounding_size=4", facecolor=tint)
                box.set(edgecolor=ink, linewidth=0.9)
                axis.add_patch(box)
                axis.text(x + size / 2, top + HIGH / 2, text, ha="center", va="center_baseline", color=ink, size=LABEL)
                x += size + APART
        hairline(figure)
    return figure


def _length(line: Sequence[tuple[str, float]]) -> float:
    """Pixels that a line of chips takes, with the room after each."""
    return sum(size + APART for _, size in line)
