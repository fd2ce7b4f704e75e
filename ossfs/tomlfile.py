"""The TOML file of a mount's options, and in which line each of them is.

Threading: a TomlFile is immutable; `read` blocks on the file system.

What the options mean is known in config.py.  Here is no value ever shown: a file may hold what it should not.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ossfs.errors import ConfigError
from ossfs.values import show

_KEY = re.compile(r"""\s*["']?([A-Za-z0-9_-]+)["']?\s*[=.]""")
_TABLE = re.compile(r"""\s*\[\[?\s*["']?([A-Za-z0-9_-]+)""")


@dataclass(frozen=True)
class TomlFile:
    """path: as it was asked for.  lines: of the keys, counted from 1, where they could be found."""

    path: str
    values: Mapping[str, Any]
    lines: Mapping[str, int]

    def place(self, name: str) -> str:
        """Where that key is, for people."""
        line = f", line {self.lines[name]}" if name in self.lines else ""
        return f"config file {show(self.path, 200)}{line}"


def read(path: str) -> TomlFile:
    """The file at *path*.  Raises ConfigError when it cannot be read or is no TOML."""
    where = show(path, 200)
    try:
        with open(path, "rb") as file:
            text = file.read().decode("utf-8")
    except OSError as error:
        raise ConfigError(f"config file {where} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"config file {where} is not UTF-8; accepted: TOML, which is UTF-8") from None
    try:
        values = tomllib.loads(text.replace("\r\n", "\n"))
    except RecursionError:
        raise ConfigError(f"config file {where} is nested too deeply; accepted: name = value lines") from None
    except ValueError as error:  # its own, and what Python says of numbers of thousands of digits
        raise ConfigError(
            f"config file {where} is no TOML: {show(error, 200)}; accepted: name = value lines, text in "
            'quotes, as in region = "cn-hangzhou"'
        ) from None
    return TomlFile(path, values, _lines(text))


def _lines(text: str) -> dict[str, int]:
    """Where the keys are: the parser does not say."""
    found: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        match = _TABLE.match(line)
        if match is not None:
            found.setdefault(match[1], number)
            return found  # what follows are keys of that table
        match = _KEY.match(line)
        if match is not None:
            found.setdefault(match[1], number)
    return found
