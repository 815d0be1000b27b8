"""Command line flags made from a dataclass: one for each field, with the comment beside it as the help.

A dataclass within another, such as the `loop` of every trainer's configuration, gives its fields to the same flat list
of names. The flags, the `config.json` of a run and the commands in the model card all speak of that list.
"""

import argparse
import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

Config = TypeVar("Config")


def flat(config: Any) -> dict[str, Any]:
    """The values of a dataclass by the names of their fields, those of dataclasses within it among them."""
    values: dict[str, Any] = {}
    for field in fields(config):
        value = getattr(config, field.name)
        values |= flat(value) if is_dataclass(value) else {field.name: value}
    return values


def filled(config: Config, values: Mapping[str, Any]) -> Config:
    """A copy of a dataclass with these values in the place of its own, given flat; lists become tuples."""
    changes = {}
    for field in fields(config):
        value = getattr(config, field.name)
        if is_dataclass(value):
            changes[field.name] = filled(value, values)
        elif field.name in values:
            new = values[field.name]
            changes[field.name] = tuple(new) if isinstance(new, list) else new
    return replace(config, **changes)


def reasons(kind: type) -> dict[str, str]:
    """The comment beside each field of a dataclass, from its source."""
    return dict(re.findall(r"^    (\w+): [^#\n]*  # (.+)$", inspect.getsource(kind), re.MULTILINE))


def add_flags(parser: argparse.ArgumentParser, config: Any, *, without: Sequence[str] = ()) -> None:
    """Give the parser a flag for each field of a dataclass but those named in `without`; values become defaults.

    A field may be an int, a float or a str (or one of these or None), a bool that is False, or a tuple of one type.
    """
    types, help_texts = get_type_hints(type(config)), reasons(type(config))
    for field in fields(config):
        value, kind = getattr(config, field.name), types[field.name]
        if is_dataclass(value):
            add_flags(parser, value, without=without)
            continue
        if field.name in without:
            continue
        if kind is bool:
            how: dict[str, Any] = {"action": "store_true"}
        elif get_origin(kind) is tuple:
            first, *others = get_args(kind)
            how = {"type": first, "nargs": "+" if others == [...] else 1 + len(others)}
        else:  # a plain type, or that type or None
            how = {"type": next(iter(get_args(kind)), kind)}
        shown = " ".join(map(str, value)) if isinstance(value, tuple) else value
        text = f"{help_texts.get(field.name, '')} (default: {shown})".replace("%", "%%").strip()
        parser.add_argument("--" + field.name.replace("_", "-"), default=value, help=text, **how)


def as_flags(values: Mapping[str, Any], defaults: Any) -> str:
    """What to write on a command line to get these values, given flat, from a program with these defaults."""
    written = []
    for name, default in flat(defaults).items():
        value = values.get(name, default)
        if isinstance(value, list):
            value = tuple(value)
        if value != default:
            flag = "--" + name.replace("_", "-")
            shown = value if isinstance(value, tuple) else () if value is True else (value,)
            written.append(" ".join([flag, *(f"{x:g}" if isinstance(x, float) else str(x) for x in shown)]))
    return " ".join(written)
