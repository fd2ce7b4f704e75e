"""Write man/ossfs.8: the text of man/ossfs.8.in, with the commands of the program and the table of options.

    python -m scripts.manpage       (or: make man)

The commands come from the program itself, the options from the table that the documents have, which
tests/unit/test_docs.py compares with the program.  So nothing is described twice.

Threading: one thread.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import typer.main

from ossfs.cli import app

ROOT: Final = Path(__file__).parents[1]
TEMPLATE: Final = ROOT / "man" / "ossfs.8.in"
PAGE: Final = ROOT / "man" / "ossfs.8"
OPTIONS: Final = ROOT / "docs" / "options.md"
"""The document with the table of options."""
MINUS: Final = r"\-"


def text(words: str) -> str:
    """Plain text, or a bit of Markdown, as short lines of mdoc(7) that begin no macro."""
    words = re.sub(r":? see \[[^]]+\]\(#[^)]*\)", "", " ".join(words.split()))
    words = re.sub(r"\[([^]]+)\]\([^)]*\)", r"\1", words)
    words = words.replace("\\", r"\e").replace("~", r"\(ti")
    words = re.sub(r"`([^`]+)`", lambda match: rf"\fB{match[1].replace('-', MINUS)}\fP", words)
    # A minus can be pasted into a shell, a hyphen cannot.
    words = re.sub(r"(?<![\w\\-])--?(?=\w)", lambda match: MINUS * len(match[0]), words)
    lines = textwrap.wrap(words, 78, break_long_words=False, break_on_hyphens=False)
    return "\n".join(rf"\&{line}" if line[0] in ".'" else line for line in lines)


def sentences(words: str) -> Iterator[str]:
    """A paragraph, each sentence on a line of its own, as mdoc(7) wants it."""
    for sentence in re.split(r"(?<=[.!?])\s+(?=[A-Z])", " ".join(words.split())):
        yield text(sentence)


def argument(word: str) -> str:
    """An argument of a macro."""
    word = word.replace("\\", r"\e")
    return f'"{word}"' if " " in word else word


def flag(name: str) -> str:
    """`-o` or `--json`."""
    return "Fl " + ("Fl " if name.startswith("--") else "") + name.lstrip("-").replace("-", MINUS)


def placeholder(parameter: Any) -> str:
    """What an argument, or the value of an option, is called; "" for a flag."""
    if getattr(parameter, "is_flag", False):
        return ""
    return str(parameter.metavar or parameter.name.upper())


def is_argument(parameter: Any) -> bool:
    """Or else an option."""
    return bool(parameter.param_type_name == "argument")


def usage(parameters: Iterable[Any]) -> Iterator[str]:
    """The words of a command line, options first."""
    for parameter in sorted(parameters, key=is_argument):
        word = argument(placeholder(parameter))
        if is_argument(parameter):
            yield f"Ar {word}" if parameter.required else f"Oo Ar {word} Oc"
            continue
        yield f"Oo {flag(parameter.opts[0])}" + (f" Ar {word}" if word else "") + " Oc"


def commands() -> dict[str, Any]:
    """The program's commands, by name."""
    found: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    return {name: found[name] for name in sorted(found) if not found[name].hidden}


def synopsis() -> Iterator[str]:
    """Each command on a line."""
    for name, command in commands().items():
        yield ".Nm"
        yield " ".join([f".Cm {name}", *usage(command.params)])


def described_commands() -> Iterator[str]:
    """Each command, with what it does and its options."""
    for name, command in commands().items():
        yield " ".join([f".It Cm {name}", *usage(command.params)])
        for number, paragraph in enumerate(re.split(r"\n\s*\n", command.help or "")):
            if number:
                yield ".Pp"
            yield from sentences(paragraph)
        described = [one for one in command.params if one.help and placeholder(one) != "SOURCE"]
        if not described:
            continue
        yield ".Bl -tag -width Ds"
        for parameter in described:
            word = argument(placeholder(parameter))
            shown = f"Ar {word}" if word else ""
            yield ".It " + (
                shown if is_argument(parameter) else f"{flag(parameter.opts[0])} {shown}".rstrip()
            )
            yield text(parameter.help)
        yield ".El"


def options_table(document: str) -> list[tuple[str, str, str, str]]:
    """The rows of the table of options in a document: name, what it takes, default, meaning, as written."""
    table = re.search(r"\n\| option \| takes \| default \| meaning \|\n\| [-| ]+\n((?:\|.*\n)+)", document)
    if table is None:
        raise ValueError("there is no table of options")
    rows = [[cell.strip() for cell in row.strip("|\n").split("|")] for row in table[1].splitlines()]
    return [(name.strip("`"), takes, default, meaning) for name, takes, default, meaning in rows]


def described_options() -> Iterator[str]:
    """Each option, with its default and what it does."""
    for name, takes, default, meaning in options_table(OPTIONS.read_text()):
        yield f".It Cm {name}"
        yield text(meaning)
        yield f".br\nTakes: {text(takes)}"
        yield f".br\nDefault: {text(default)}"


def page() -> str:
    """The whole manual page."""
    filled = TEMPLATE.read_text()
    for mark, lines in {
        "@SYNOPSIS@": synopsis(),
        "@COMMANDS@": described_commands(),
        "@OPTIONS@": described_options(),
    }.items():
        filled = filled.replace(mark, "\n".join(lines))
    return filled


def main() -> None:
    """Write the page."""
    PAGE.write_text(page())


if __name__ == "__main__":
    main()
