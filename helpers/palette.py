"""The colours of all figures and diagrams: one for one thing in every lesson.

Data are bright, machines muted, structure grey. Colour never speaks alone: each role has a dash as well, or a mark.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Role:
    """How one thing is drawn: `ink` for lines and letters, `tint` for areas, `dash` as matplotlib takes it."""

    ink: str
    tint: str = "#EEF1F5"
    dash: str | tuple[int, tuple[int, ...]] = "-"
    width: float = 2.25  # points of a line


ROLES = {
    "x0": Role("#0B5FE3", "#E1EBFC"),
    "x_t": Role("#AB2B97", "#F1DDED", (0, (6, 3))),  # x0's blue mixed with the noise's orange
    "eps": Role("#B44F00", "#F9E6D6", (0, (1, 1.2))),
    "words": Role("#0B7060", "#DFF0EC"),
    "guidance": Role("#D81E5B", "#FBE0E8", width=3.5),
    "vae": Role("#6B6A1E", "#F3F2E0", (0, (4, 1, 1, 1))),
    "down": Role("#4F7394"),
    "middle": Role("#3F4A5C"),
    "up": Role("#8A6A55", dash=(0, (5, 1.5))),
    "good": Role("#0E4F5C"),
    "ill": Role("#A61B1B", dash=(0, (3, 2))),
    "plain": Role("#1F2933"),  # what has no role of its own
}
PLAIN = ("plain", "down", "up", "vae")  # for lines without a role, in this order
INK, SECOND = "#1F2933", "#55606E"  # first and second text
LINE, HAIRLINE, PANEL, CARD = "#8792A0", "#D5DAE1", "#EEF1F5", "#FAFBFC"
