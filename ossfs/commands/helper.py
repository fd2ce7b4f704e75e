"""`ossfs install-helper`: what mount(8) and umount(8) call, put into /sbin.

Threading: the main thread of a command.

Each helper is a small shell script that runs ossfs/mount8.py with the Python that this ossfs is installed
in.  A second line marks it as ours: a file of the same name without it belongs to another program, and is
neither replaced nor removed.
"""

from __future__ import annotations

import os
import shlex
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Final

import typer

from ossfs.errors import UserError
from ossfs.mount8 import HELPERS

SBIN: Final = "sbin"
"""mount(8) looks nowhere else."""

_MARK: Final = "# Made by `ossfs install-helper`; `ossfs install-helper --remove` removes it."


def install_helper(
    prefix: Annotated[
        Path, typer.Option("--prefix", metavar="DIR", help="install into DIR/sbin, for another root")
    ] = Path("/"),
    remove: Annotated[bool, typer.Option("--remove", help="remove them")] = False,
) -> int:
    """Make `mount -t ossfs`, /etc/fstab and umount(8) use this ossfs: install its helpers in /sbin."""
    directory = prefix / SBIN
    for name in HELPERS:
        path = directory / name
        print(f"{path}: {_remove(path) if remove else _install(path)}")
    return 0


def helper_script(python: str | None = None) -> str:
    """The text of a helper.  -P: the directory that mount(8) is called in must not bring modules along."""
    python = sys.executable if python is None else python
    return f'#!/bin/sh\n{_MARK}\nexec {shlex.quote(python)} -P -m ossfs.mount8 "$0" "$@"\n'


def _install(path: Path) -> str:
    """Make the file, or leave it when it is right; what was done."""
    wanted = helper_script()
    try:
        found = _read(path)
        if found == wanted and os.access(path, os.X_OK):
            return "is up to date"
        if found is not None and _MARK not in found:
            raise UserError(f"{path} is not of ossfs; remove it, or the package that it came with, first")
        path.parent.mkdir(parents=True, exist_ok=True)
        # Whole at any moment: somebody may be mounting.
        handle, unfinished = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with open(handle, "w", encoding="utf-8") as file:
                file.write(wanted)
                os.fchmod(file.fileno(), 0o755)  # nosec B103 # a program for all, without secrets
            os.replace(unfinished, path)
        except BaseException:
            os.unlink(unfinished)
            raise
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}; {_hint(error)}") from None
    return "installed" if found is None else "replaced"


def _remove(path: Path) -> str:
    try:
        found = _read(path)
        if found is None:
            return "is not there"
        if _MARK not in found:
            return "is not of ossfs, left alone"
        os.unlink(path)
    except OSError as error:
        raise UserError(f"{path} cannot be removed: {error.strerror}; {_hint(error)}") from None
    return "removed"


def _read(path: Path) -> str | None:
    """None when there is no such file."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        # A symlink to nowhere is somebody's, too.
        return "" if path.is_symlink() else None


def _hint(error: OSError) -> str:
    return "run this as root" if isinstance(error, PermissionError) else "accepted: --prefix DIR"
