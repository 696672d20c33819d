"""Mutations: of values as JSON and Python have them, of bytes, and of what a path is."""

from __future__ import annotations

import copy
import json
import math
import os
import random
from pathlib import Path
from typing import Any


def nested(depth: int) -> Any:
    """Return lists in lists, or tables in tables."""
    value: Any = 1
    for _ in range(depth):
        value = [value] if depth % 2 else {"a": value}
    return value


EXTREME: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 2**31, 2**53, 2**53 + 1, 2**63, -(2**63), 10**30, 10**400,
    0.0, -0.0, 5e-324, 1e-300, 1e-13, 1e-9, 0.5, 1.5, -1.5, 1e9, 1e14, 1e15, 1e300, 1.7e308,
    math.inf, -math.inf, math.nan, "", "x", "1", "legw", "none", "../../outside", "/etc/passwd",
    "a/../..", "\x00", "\x1b[2J\x1b]0;t\x07", "\u202e\u2066", "two\nlines", "\ud800",
    "<script>alert(1)</script>", "__import__('os')", "x" * 5000, "中é🙂", [], {}, [1], [[1]],
    {"a": 1}, {"kind": "sgd"}, {"kind": 5}, {"kind": "cosine", "end": 2}, ["legw"], [None],
    nested(5), nested(40), nested(41), nested(200),
)  # fmt: skip
"""What a field may hold that nobody meant."""


MOST_PLACES = 5000
"""Parts above which a value does not grow any more: fifty times fifty times fifty has no end."""


def places(value: Any, way: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the way to every part of a value."""
    found = [way]
    if isinstance(value, dict):
        for key, item in value.items():
            found += places(item, (*way, key))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            found += places(item, (*way, index))
    return found


def mutated(value: Any, chance: random.Random, times: int | None = None) -> Any:
    """Return a copy in which some parts are gone, of another type, extreme, or more."""
    value = copy.deepcopy(value)
    for _ in range(times or chance.choice((1, 1, 1, 2, 3))):
        way = chance.choice(places(value))
        if not way:
            if chance.random() < 0.1:
                value = copy.deepcopy(chance.choice(EXTREME))  # it is changed in the next turn
            continue
        holder = value
        for step in way[:-1]:
            holder = holder[step]
        _change(holder, way[-1], chance)
    return value


def _change(holder: Any, key: Any, chance: random.Random) -> None:
    if isinstance(holder, tuple) or not isinstance(holder, dict | list):
        return
    old, what = holder[key], chance.random()
    if what < 0.15:
        del holder[key]
    elif what < 0.25 and isinstance(holder, dict):
        holder[chance.choice(("more", "kind", "\x1b[1m", "lr.a.a", "x" * 300))] = old
    elif what < 0.25:
        holder.append(old)
    elif what < 0.45 and isinstance(old, int | float) and not isinstance(old, bool):
        factor = chance.choice((-1, 0, 10, 1e3, 1e-3, 1e9, 1e-9, 1e100, 1e-100))
        try:
            holder[key] = type(old)(old * factor)
        except (ValueError, OverflowError):
            holder[key] = factor
    elif what < 0.5 and isinstance(old, list):
        times = chance.choice((2, 50))
        if len(places(old)) * times <= MOST_PLACES:
            holder[key] = old * times
    else:
        holder[key] = copy.deepcopy(chance.choice(EXTREME))


def as_json(value: Any) -> bytes:
    """Return a value as JSON, with the constants that JSON has not."""
    return json.dumps(value).encode()


def as_toml(value: Any) -> bytes:
    """Return a value as something like TOML: what TOML has no word for is written as JSON."""
    lines, tables = [], []
    for key, item in value.items() if isinstance(value, dict) else ():
        name = key if isinstance(key, str) and key.isascii() and key.isidentifier() else repr(key)
        if isinstance(item, dict):
            inner = "\n".join(f"{k} = {json.dumps(v)}" for k, v in item.items())
            tables.append(f"[{name}]\n{inner}")
        else:
            lines.append(f"{name} = {json.dumps(item)}")
    return "\n".join([*lines, *tables]).encode("utf-8", "surrogatepass")


def changed_bytes(content: bytes, chance: random.Random) -> bytes:
    """Return bytes of which some are others, more or gone."""
    data = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 8))):
        at, what = chance.randrange(len(data) + 1), chance.randrange(8)
        if what == 0:
            data = data[:at]
        elif what == 1:
            data[at:at] = chance.randbytes(chance.choice((1, 4, 100)))
        elif what == 2:
            del data[at : at + chance.choice((1, 4, 200))]
        elif what == 3 and data:
            data[at % len(data)] ^= 1 << chance.randrange(8)
        elif what == 4:
            data[at:at] = data[at : at + chance.choice((10, 200))]
        elif what == 5:
            data[0:0] = chance.choice((b"\xef\xbb\xbf", b"\x00", b"\xff\xfe", b"[", b"{"))
        elif what == 6:
            data[at:at] = chance.choice(
                (
                    b"\n",
                    b"\r",
                    b"\x00",
                    b'"',
                    b"NaN",
                    b"1e999",
                    b"{" * 50,
                    b"[" * 5000,
                    b'{"a":' * 900,
                )
            )
        else:
            data += chance.choice((b"\n", b"{", b"\x00" * 50, b"x" * 70_000))
    return bytes(data)


def put_elsewhere(path: Path, outside: Path, chance: random.Random) -> str:
    """Put something that is no plain file in a file's place; return what."""
    path.unlink(missing_ok=True)
    what = chance.choice(
        ("gone", "folder", "link out", "link up", "link to itself", "link to a device", "pipe",
         "empty", "huge", "huge and sparse JSON", "link to nowhere")
    )  # fmt: skip
    if what == "folder":
        path.mkdir()
    elif what == "link out":
        path.symlink_to(outside)
    elif what == "link up":
        path.symlink_to("../" * 9 + str(outside)[1:])
    elif what == "link to itself":
        path.symlink_to(path.name)
    elif what == "link to a device":
        path.symlink_to(chance.choice(("/dev/zero", "/dev/stdin", "/dev/tty", "/dev/full")))
    elif what == "link to nowhere":
        path.symlink_to("nowhere")
    elif what == "pipe":
        os.mkfifo(path)
    elif what == "empty":
        path.touch()
    elif what.startswith("huge"):
        with path.open("wb") as file:
            file.write(b"{" if what == "huge" else b'{"format": 1}')
            file.truncate(chance.choice((2**31, 2**40)))
    return what


def take_away(path: Path) -> None:
    """Remove what lies at a path, whatever it is."""
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    else:
        path.unlink(missing_ok=True)
