"""The grammar of Pocket's captions: which words it has, and how a prompt could go on.

    a [red] fox [left of a [blue] pizza] [on a white background, or on grass] [, flat style]

What stands in brackets may be missing.
"""

import difflib
import functools
import re
from collections.abc import Iterable, Iterator

from helpers.grounds import PLACES
from helpers.scenes import COLOURS, GROUNDS, PLAIN, PLURALS, RELATIONS, STYLES, WORDS, Thing

THINGS = [Thing(word).phrase for word in WORDS]
COLOURED = [Thing(word, colour).phrase for colour in COLOURS for word in WORDS]


def suggestions(prompt: str, limit: int) -> list[tuple[str, str]]:
    """Up to `limit` ways a prompt could go on, each as (what would be added, whole prompt); `limit` is at least 2.

    A word that is being typed is completed, also one that stands where the grammar has no place for it; a word with a
    slip is offered as the nearest ones that Pocket knows. Coloured things are offered once a colour is typed.
    """
    text = re.sub(r"\s+", " ", prompt.lstrip())
    match = CAPTION.match(text.lower())
    done, rest = text[: match.end()], text[match.end() :].lower()

    for phrases in _next(match, rest):
        offered = [
            (phrase.strip(" ,"), done + phrase)
            for phrase in phrases
            if phrase != rest
            and (phrase.startswith(rest) or re.sub(r"^an? ", "", phrase).startswith(rest.strip() or " "))
        ]
        if offered:
            return _spread(offered, limit)

    head, _, fragment = text.rpartition(" ")
    if not fragment or not rest:  # nothing is being typed, or a whole caption is there
        return []
    vocabulary = dict.fromkeys([*WORDS, *COLOURS, *PLAIN, *STYLES])
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
    rf"(?P<one>(?:{_any_of(THINGS + COLOURED)})\b)?"
    rf"(?(one)(?: (?P<relation>{_any_of(RELATIONS)}) (?P<other>{_any_of(THINGS + COLOURED)})\b)?)"
    rf"(?(one)(?P<ground> (?:{_any_of(GROUNDS.values())})\b)?)"
    rf"(?(one)(?P<style>, (?:{_any_of(STYLES)}) style\b)?)"
)


def _next(match: re.Match, rest: str) -> Iterator[list[str]]:
    """The phrases that may stand after what `CAPTION` has read of a prompt; `rest` is what it has not read.

    They come in groups; of a later one something is offered only where nothing of those before it fits.
    """
    grounds = [f" {phrase}" for phrase in GROUNDS.values()]
    styles = [f", {style} style" for style in STYLES]
    if match["one"] is None:
        yield THINGS
        yield COLOURED
    elif match["ground"] and not match["style"]:
        yield styles
    elif match["other"] and not match["style"]:
        yield grounds + styles
    elif not match["style"]:
        relation = next((relation for relation in RELATIONS if rest.startswith(f" {relation}")), None)
        if relation:
            yield [f" {relation} {other}" for other in THINGS]
            yield [f" {relation} {other}" for other in COLOURED]
        else:
            yield [f" {relation}" for relation in RELATIONS] + grounds + styles


def _spread(items: list, count: int) -> list:
    """`count` of the items at even distances, the first and the last among them; all if there are no more."""
    if len(items) <= count:
        return items
    return [items[round(i * (len(items) - 1) / (count - 1))] for i in range(count)]


@functools.cache
def _vocabulary() -> dict[str, tuple[str, ...]]:
    """Every single word of the captions, and what to offer for it: itself, or the names it is part of."""
    places = [phrase for phrase, _ in PLACES.values()]
    whole = [*WORDS, *COLOURS, *PLAIN, *STYLES, *RELATIONS, *places, "on", "background", "style"]
    whole += [Thing(word).phrase.split()[0] for word in WORDS if word not in PLURALS]  # a, an
    singles = {part for phrase in whole for part in phrase.split()}
    return {
        single: (single,) if single in whole else tuple(dict.fromkeys(p for p in whole if single in p.split()))
        for single in sorted(singles)
    }
