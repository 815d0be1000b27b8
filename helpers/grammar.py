"""The grammar of Pocket's captions: which words it has, and how a prompt could go on.

    a fox [left of a pizza] [on a blue background] [, flat style]

What stands in brackets may be missing.
"""

import difflib
import functools
import re
from collections.abc import Iterable

from helpers.scenes import BACKGROUNDS, PLURALS, RELATIONS, STYLES, WORDS, with_article

OBJECTS = [with_article(word) for word in WORDS]


def suggestions(prompt: str, limit: int) -> list[tuple[str, str]]:
    """Up to `limit` ways a prompt could go on, each as (what would be added, whole prompt); `limit` is at least 2.

    A word that is being typed is completed, also one that stands where the grammar has no place for it; a word with a
    slip is offered as the nearest ones that Pocket knows.
    """
    text = re.sub(r"\s+", " ", prompt.lstrip())
    match = CAPTION.match(text.lower())
    done, rest = text[: match.end()], text[match.end() :].lower()

    offered = [
        (phrase.strip(" ,"), done + phrase)
        for phrase in _next(match, rest)
        if phrase != rest and (phrase.startswith(rest) or re.sub(r"^an? ", "", phrase).startswith(rest.strip() or " "))
    ]
    if offered:
        return _spread(offered, limit)

    head, _, fragment = text.rpartition(" ")
    if not fragment or not rest:  # nothing is being typed, or a whole caption is there
        return []
    vocabulary = dict.fromkeys([*WORDS, *BACKGROUNDS, *STYLES])
    near = [word for word in vocabulary if word.startswith(fragment.lower())]
    near = near or difflib.get_close_matches(fragment.lower(), vocabulary, n=3)
    return [(word, f"{head} {word}".strip()) for word in near if word != fragment.lower()][:limit]


def unknown_words(prompt: str) -> dict[str, list[str]]:
    """The words of a prompt that are in no caption, in order, each with up to three near ones that are."""
    known = _vocabulary()
    words = re.findall(r"[^\W_]+(?:['\u2019][^\W_]+)*", prompt.lower())
    unknown = {}
    for i, word in enumerate(words):
        if word in known:
            continue
        joined = {"".join(words[i : i + 2]), "".join(words[max(i - 1, 0) : i + 1])}  # "ice cream" is "icecream" here
        near = sorted(joined & known.keys()) or difflib.get_close_matches(word, known, n=3)
        unknown[word] = list(dict.fromkeys(phrase for single in near for phrase in known[single]))[:3]
    return unknown


def _any_of(phrases: Iterable[str]) -> str:
    return "|".join(map(re.escape, sorted(phrases, key=len, reverse=True)))


# As much of a caption as a prompt begins with; each part needs the first one.
CAPTION = re.compile(
    rf"(?P<one>(?:{_any_of(OBJECTS)})\b)?"
    rf"(?(one)(?: (?P<relation>{_any_of(RELATIONS)}) (?P<other>{_any_of(OBJECTS)})\b)?)"
    rf"(?(one)(?P<background> on an? (?:{_any_of(BACKGROUNDS)}) background\b)?)"
    rf"(?(one)(?P<style>, (?:{_any_of(STYLES)}) style\b)?)"
)


def _next(match: re.Match, rest: str) -> list[str]:
    """The phrases that may stand after what `CAPTION` has read of a prompt; `rest` is what it has not read."""
    if match["one"] is None:
        return OBJECTS
    backgrounds = [f" on {with_article(name)} background" for name in BACKGROUNDS]
    styles = [f", {style} style" for style in STYLES]
    if match["style"]:
        return []
    if match["background"]:
        return styles
    if match["other"]:
        return backgrounds + styles
    for relation in RELATIONS:
        if rest.startswith(f" {relation}"):
            return [f" {relation} {other}" for other in OBJECTS]
    return [f" {relation}" for relation in RELATIONS] + backgrounds + styles


def _spread(items: list, count: int) -> list:
    """`count` of the items at even distances, the first and the last among them; all if there are no more."""
    if len(items) <= count:
        return items
    return [items[round(i * (len(items) - 1) / (count - 1))] for i in range(count)]


@functools.cache
def _vocabulary() -> dict[str, tuple[str, ...]]:
    """Every single word of the captions, and what to offer for it: itself, or the names it is part of."""
    whole = [*WORDS, *BACKGROUNDS, *STYLES, *RELATIONS, "on", "background", "style"]
    whole += [with_article(word).split()[0] for word in WORDS if word not in PLURALS]  # a, an
    singles = {part for phrase in whole for part in phrase.split()}
    return {
        single: (single,) if single in whole else tuple(dict.fromkeys(p for p in whole if single in p.split()))
        for single in sorted(singles)
    }
