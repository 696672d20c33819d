"""Writes the commands into `cli.md` when the site is built: every option, read from the code.

A command's options are the fields of its dataclass: names and defaults are the fields', the text
is what stands below them, as in `legw COMMAND --help`.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import itertools
import re
import textwrap
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from legw.cli import COMMANDS
from legw.cli.options import Dataset, Machine

PLACE = "<!-- commands -->"
"""Place in the page where the commands are written."""

SHARED = {Dataset: "Options of the data", Machine: "Options of speed and device"}
"""Options that several commands share, each with its head."""

KINDS = {int: "INT", float: "FLOAT", str: "STR"}
"""Words for a value that has none of its own."""


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by mkdocs for each page."""
    return markdown.replace(PLACE, reference()) if PLACE in markdown else markdown


def reference() -> str:
    """Return all commands as Markdown, and then the options that several share."""
    parts = []
    for name in COMMANDS:
        options = importlib.import_module(f"legw.cli.commands.{name}").Options
        parts += [section(*each) for each in variants(f"legw {name}", options)]
    for shared, head in SHARED.items():
        parts += [f"## {head}", as_markdown(inspect.getdoc(shared) or ""), listed(shared)]
    return "\n\n".join(parts)


def variants(command: str, options: Any) -> list[tuple[str, type]]:
    """Return a command with its options, or each of its subcommands."""
    if is_dataclass(options):
        return [(command, options)]
    found = []
    for each in get_args(bare(options)):
        named = next(mark.name for mark in each.__metadata__ if hasattr(mark, "prefix_name"))
        found += variants(f"{command} {named}", get_args(each)[0])
    return found


def section(command: str, options: type) -> str:
    """Return one command: its purpose, an example, and its options."""
    said, _, example = (inspect.getdoc(options) or "").partition("Example: ")
    lines = [f"## {command}", as_markdown(said.strip())]
    if example:
        lines.append(f"```bash\n{example.strip()}\n```")
    return "\n\n".join([*lines, listed(options)])


def listed(options: type) -> str:
    """Return options as a list, in which the shared ones are one link."""
    hints, texts = get_type_hints(options, include_extras=True), texts_of(options)
    items = []
    for field in fields(options):
        hint = hints[field.name]
        if bare(hint) in SHARED:
            head = SHARED[bare(hint)]
            items.append(f"- [{head}](#{head.lower().replace(' ', '-')})")
        else:
            text, source = texts[field.name]
            said = next((m.help for m in marks_of(hint) if getattr(m, "help", None)), text)
            items.append(f"- {title(field, hint)}: {as_markdown(said)}{default(field, source)}")
    return "\n".join(items)


def title(field: Field[Any], hint: Any) -> str:
    """Return an option's names and the word for its value, as code."""
    marks, kind = list(marks_of(hint)), bare(hint)
    choices = f"{{{','.join(get_args(kind))}}}" if get_origin(kind) is Literal else ""
    named = (mark.metavar for mark in marks if getattr(mark, "metavar", None))
    value = next(named, choices or KINDS.get(kind, ""))
    if any("Positional" in str(mark) for mark in marks):
        return f"`{value}`"
    short = [name for mark in marks for name in getattr(mark, "aliases", None) or ()]
    long = f"--{field.name.replace('_', '-')} {value}".strip()
    return ", ".join(f"`{name}`" for name in [*short, long])


def default(field: Field[Any], source: str) -> str:
    """Return what is taken if the option is not given; the text tells what the machine decides."""
    if field.default is MISSING and field.default_factory is MISSING:
        return " *Required.*"
    told = any(field.default is each for each in (None, False, (), MISSING))
    if told or "os." in source:
        return ""
    return f" Default: `{field.default}`."


def texts_of(options: type) -> dict[str, tuple[str, str]]:
    """Return of each field the text below it, and the source of its default."""
    found = {}
    for cls in reversed(options.__mro__[:-1]):
        body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0].body
        for one, below in itertools.pairwise(body):
            if isinstance(one, ast.AnnAssign) and isinstance(below, ast.Expr):
                source = ast.unparse(one.value) if one.value else ""
                found[one.target.id] = (" ".join(below.value.value.split()), source)
    return found


def as_markdown(text: str) -> str:
    """Return plain text in which no sign is markup, but code is code."""
    parts = re.split(r"(`[^`]*`)", text)
    plain = [re.sub(r"([<>*_\[\]])", r"\\\1", part) for part in parts[::2]]
    code = [*parts[1::2], ""]
    return "".join(a + b for a, b in zip(plain, code, strict=True))


def marks_of(hint: Any) -> Any:
    """Yield all that annotates a type, the innermost too."""
    if get_origin(hint) is Annotated:
        yield from hint.__metadata__
        yield from marks_of(get_args(hint)[0])


def bare(hint: Any) -> Any:
    """Return a type without annotations, and without None where it may be left out."""
    if get_origin(hint) is Annotated:
        return bare(get_args(hint)[0])
    if get_origin(hint) is Union:
        some = [each for each in get_args(hint) if each is not type(None)]
        return bare(some[0]) if len(some) == 1 else hint
    return hint
