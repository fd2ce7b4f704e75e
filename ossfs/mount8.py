"""What mount(8) and umount(8) call: `mount.ossfs`, `mount.fuse.ossfs` and `umount.fuse.ossfs` in /sbin.

Threading: the main thread of a process that has no other; a mount forks (daemon.py).

The files in /sbin are made by `ossfs install-helper` (commands/helper.py) and run this module with the name
that they were called by.  Exit statuses are those of mount(8).  A failure is one line on standard error.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Final, NoReturn

from ossfs.daemon import user_error_in
from ossfs.errors import ConfigError, MountError, UserError

if TYPE_CHECKING:
    from ossfs.config import MountConfig

FSTYPES: Final = ("ossfs", "fuse.ossfs")
"""What the third field of /etc/fstab may say."""

HELPERS: Final = ("mount.ossfs", "mount.fuse.ossfs", "umount.fuse.ossfs")
"""mount(8) looks for mount.TYPE.  umount(8) goes by the type that the kernel shows, which is fuse.ossfs."""

OK: Final = 0
USAGE: Final = 1
SYSTEM_ERROR: Final = 2
INTERNAL_ERROR: Final = 4
INTERRUPTED: Final = 8
FAILURE: Final = 32


class _Misuse(UserError):
    """The command line is not one that mount(8) or umount(8) would make."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Let the caller say it, and choose the exit status."""
        raise _Misuse(f"{message}; usage: {' '.join(self.format_usage().split()[1:])}")


def _mount_arguments(name: str, arguments: Sequence[str]) -> argparse.Namespace:
    parser = _Parser(prog=name, usage=f"{name} SOURCE MOUNTPOINT [-sfnv] [-t TYPE] [-o OPT[,OPT...]]")
    parser.add_argument("source")
    parser.add_argument("mountpoint")
    parser.add_argument("-o", dest="options", action="append", default=[])
    parser.add_argument("-s", dest="sloppy", action="store_true", help="ignore unknown options")
    parser.add_argument("-f", dest="fake", action="store_true", help="do all but the mount")
    parser.add_argument("-n", action="store_true", help="write no /etc/mtab: nobody does any more")
    parser.add_argument("-v", dest="verbose", action="store_true", help="say what is done")
    parser.add_argument("-t", dest="type", choices=FSTYPES, help="fuse.ossfs")
    parser.add_argument("-N", dest="namespace", help="not supported")
    return parser.parse_args(arguments)


def _umount_arguments(name: str, arguments: Sequence[str]) -> argparse.Namespace:
    parser = _Parser(prog=name, usage=f"{name} MOUNTPOINT [-nlfvr] [-t TYPE]")
    parser.add_argument("mountpoint")
    parser.add_argument("-n", action="store_true", help="write no /etc/mtab: nobody does any more")
    parser.add_argument("-l", dest="lazy", action="store_true", help="detach a mount that is in use")
    parser.add_argument("-f", dest="force", action="store_true", help="detach a mount that does not answer")
    parser.add_argument("-v", dest="verbose", action="store_true", help="say what is done")
    parser.add_argument(
        "-r", dest="read_only", action="store_true", help="if it is in use, make it read-only"
    )
    parser.add_argument("-t", dest="type", help="fuse.ossfs")
    parser.add_argument("-N", dest="namespace", help="not supported")
    return parser.parse_args(arguments)


def _refuse_namespace(namespace: str | None, program: str) -> None:
    if namespace is not None:
        raise _Misuse(f"-N is not supported; accepted: nsenter --mount={namespace} {program} ...")


# --------------------------------------------------------------------------------------------------
# mount


def options_of(arguments: Iterable[str], *, sloppy: bool = False) -> tuple[list[str], list[str]]:
    """The options that are ours, and the unknown ones that *sloppy* lets us leave out.

    mount(8) says `rw` also where nobody has asked for it: it counts for nothing, so that the `ro` of a
    config file does.
    """
    from ossfs.arguments import split_options
    from ossfs.config import is_known

    ours: list[str] = []
    unknown: list[str] = []
    for piece in (piece for argument in arguments for piece in split_options(argument)):
        if piece == "rw":
            continue
        if piece == "remount":
            raise ConfigError("-o remount is not supported; accepted: umount, and mount with other options")
        (unknown if sloppy and not is_known(piece) else ours).append(piece)
    return [piece.replace("\\", "\\\\").replace(",", "\\,") for piece in ours], unknown


def _mount(name: str, arguments: Sequence[str], say: Callable[[str], None]) -> int:
    from ossfs import cli
    from ossfs.config import load_config

    asked = _mount_arguments(name, arguments)
    _refuse_namespace(asked.namespace, "mount")
    options, unknown = options_of(asked.options, sloppy=asked.sloppy)
    if unknown and asked.verbose:
        say(f"ignored: {', '.join(piece.partition('=')[0] for piece in unknown)}")
    if asked.fake:
        _check(load_config(asked.source, asked.mountpoint, options))
        return OK
    status = cli.mount(asked.source, asked.mountpoint, options, foreground=False)
    if asked.verbose and status == 0:
        say(f"{asked.source} mounted on {asked.mountpoint}")
    return FAILURE if status else OK


def _check(config: MountConfig) -> None:
    """What a mount looks at before it asks the service anything."""
    from ossfs import mountpoint
    from ossfs.access import find_credentials

    find_credentials(config)
    mountpoint.check_fuse(config.allow_other)
    mountpoint.check_mountpoint(config.mountpoint, config.nonempty)


# --------------------------------------------------------------------------------------------------
# umount


def _unmount(name: str, arguments: Sequence[str], say: Callable[[str], None]) -> int:
    from ossfs.cli import ProgressLine
    from ossfs.commands.output import printable
    from ossfs.control import MountBusy, MountDied, MountUnknown, flush_and_unmount, request_unmount
    from ossfs.mountpoint import is_on_autofs

    asked = _umount_arguments(name, arguments)
    _refuse_namespace(asked.namespace, "umount")
    place = asked.mountpoint
    try:
        with ProgressLine(quiet=not (asked.verbose or sys.stderr.isatty())) as show:
            if is_on_autofs(place):
                failed = flush_and_unmount(place, lambda where: _umount8(where, lazy=asked.lazy), show)
            else:
                failed = request_unmount(place, show)
    except MountDied as death:
        say(str(death))
        return OK
    except MountUnknown:
        # Its process cannot be asked, which is no reason to be of less use than no helper.
        _umount8(place, lazy=asked.lazy, force=asked.force)
        say(f"{place} is unmounted; its process was not found, and may still upload what was written")
        return OK
    except MountBusy:
        if asked.lazy:
            _umount8(place, lazy=True)
            say(f"{place} is detached; what programs still write there is uploaded when they close it")
            return OK
        if asked.read_only:
            _run("mount", "-i", "-o", "remount,ro", "--", place)
            say(f"{place} is in use, and read-only now")
            return OK
        raise
    except MountError:
        if not (asked.force or asked.lazy) or not _is_mounted(place):
            raise
        _umount8(place, lazy=True, force=asked.force)
        say(f"{place} is detached; its process does not answer, see its log")
        return OK
    for file in failed:
        say(f"failed to upload: {printable(file)}")
    if asked.verbose:
        say(f"{place} unmounted")
    return FAILURE if failed else OK


def _is_mounted(place: str) -> bool:
    from ossfs.mountpoint import FSTYPE, mount_at, resolve_mountpoint

    mount = mount_at(resolve_mountpoint(place))
    return mount is not None and mount.fstype == FSTYPE


def _umount8(place: str, *, lazy: bool, force: bool = False) -> None:
    """umount(8) without its helper, which is us."""
    from ossfs.mountpoint import resolve_mountpoint

    flags = [*(["-l"] if lazy else []), *(["-f"] if force else [])]
    _run("umount", "-i", *flags, "--", resolve_mountpoint(place))


def _run(*command: str) -> None:
    done = subprocess.run(  # noqa: S603 # nosec B603 # fixed programs, and a path after "--"
        command, stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    if done.returncode != 0:
        said = " ".join(os.fsdecode(done.stderr).split()).removeprefix(f"{command[0]}: ")
        raise MountError(f"{command[0]} failed: {said or f'exit status {done.returncode}'}")


# --------------------------------------------------------------------------------------------------


def run(program: str, arguments: Sequence[str]) -> int:
    """The exit status of the helper of that name or path."""
    name = os.path.basename(program)

    def say(line: str) -> None:
        print(f"{name}: {' '.join(line.split())}", file=sys.stderr, flush=True)

    work = _unmount if name.startswith("umount.") else _mount
    try:
        return work(name, arguments, say)
    except (UserError, BaseExceptionGroup) as caught:
        error = user_error_in(caught)
        if error is None:
            say(f"internal error: {caught!r}")
            return INTERNAL_ERROR
        say(str(error))
        return USAGE if isinstance(error, ConfigError | _Misuse) else FAILURE
    except (OSError, MemoryError) as error:
        say(str(error) or type(error).__name__)
        return SYSTEM_ERROR
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:  # noqa: BLE001  # mount(8) has a number for it
        say(f"internal error: {error!r}")
        return INTERNAL_ERROR


def main() -> NoReturn:
    """`python -m ossfs.mount8 NAME ARGUMENT...`, as the files in /sbin call it."""
    if len(sys.argv) < 2:
        print("ossfs.mount8: the name of a helper is missing", file=sys.stderr)
        sys.exit(USAGE)
    sys.exit(run(sys.argv[1], sys.argv[2:]))


if __name__ == "__main__":
    main()
