"""Multiple-choice questions inside a lesson: data, and the card that shows them.

The card is HTML without a script: each answer opens and says whether it is right, and why. So it works in a notebook
that is not trusted yet, on GitHub, with the keyboard, and without a kernel.
"""

import html
import re
from dataclasses import dataclass
from string import ascii_uppercase

from helpers import palette
from helpers.palette import HAIRLINE, INK, LINE, PANEL, ROLES, SECOND

FONT = "font-family: 'Helvetica Neue', Helvetica, Arial, 'Liberation Sans', 'DejaVu Sans', sans-serif"
# Styles stand at each element: JupyterLab and GitHub remove style sheets, and GitHub these too.
CARD = (
    f"box-sizing: border-box; max-width: 720px; margin: 8px 0; padding: 20px; border: 1px solid {HAIRLINE}; "
    f"border-radius: 14px; background-color: {palette.CARD}; color: {INK}; font-size: 14px; line-height: 20px; {FONT}"
)
HEAD = f"margin: 0 0 4px; color: {SECOND}; font-size: 13px"
QUESTION = "margin: 0 0 12px; font-size: 16px; font-weight: bold; line-height: 23px"
OPTION = f"margin: 8px 0 0; border: 1px solid {LINE}; border-radius: 10px; background-color: #FFFFFF; overflow: hidden"
CHOICE = "display: block; padding: 12px 16px; cursor: pointer; list-style: none"
LETTER = f"margin-right: 10px; padding: 3px 8px; border-radius: 10px; background-color: {PANEL}; font-weight: bold"
CODE = f"padding: 0; background-color: transparent; color: {INK}; font-size: 13px"
REASON = f"padding: 12px 16px; border-top: 1px solid {HAIRLINE}; color: {INK}; background-color: "
VERDICTS = {
    True: ("✓ Right.", ROLES["good"].ink, "#E1EEF0"),
    False: ("✕ No.", ROLES["ill"].ink, "#F8E9E9"),
}


@dataclass(frozen=True)
class Option:
    """An answer to choose; `why` says what makes it right, or which thought leads to it and where that goes wrong."""

    text: str
    why: str
    right: bool = False


@dataclass(frozen=True, kw_only=True)
class Quiz:
    """One question, as data. In its texts `backticks` mark code.

    name: lesson number, dot, a word: `02.one_look`. options: in the order in which they are shown; one is right.
    """

    name: str
    question: str
    options: tuple[Option, ...]

    def plain(self) -> str:
        """The question and its answers as lines of text, without saying which one is right."""
        lines = [f"{letter}. {option.text}" for letter, option in zip(ascii_uppercase, self.options, strict=False)]
        return "\n".join([self.question, *lines])

    def card(self) -> str:
        """The question as HTML, its answers folded."""
        options = "".join(
            _option(letter, option) for letter, option in zip(ascii_uppercase, self.options, strict=False)
        )
        return (
            f'<div style="{CARD}"><div style="{HEAD}">Open the answer you expect</div>'
            f'<div style="{QUESTION}">{_marked(self.question)}</div>{options}</div>'
        )


def _option(letter: str, option: Option) -> str:
    verdict, ink, tint = VERDICTS[option.right]
    return (
        f'<details style="{OPTION}">'
        f'<summary style="{CHOICE}"><span style="{LETTER}">{letter}</span>{_marked(option.text)}</summary>'
        f'<div style="{REASON}{tint}"><b style="color: {ink}">{verdict}</b> {_marked(option.why)}</div></details>'
    )


def _marked(text: str) -> str:
    """Text as HTML, with `code` in a typewriter font."""
    return re.sub(r"`([^`]+)`", rf'<code style="{CODE}">\1</code>', html.escape(text))
