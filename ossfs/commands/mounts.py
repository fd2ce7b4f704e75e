"""`ossfs list`: the mounts of this host; and what `ossfs umount --all` does.

Threading: the main thread of a command.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from ossfs.commands.output import print_json, print_table, printable
from ossfs.errors import UserError

if TYPE_CHECKING:
    from ossfs.registry import MountRecord


def list_mounts(as_json: Annotated[bool, typer.Option("--json", help="as JSON")] = False) -> int:
    """List the mounts of this host: those of this user, and for root those of all users.

    A dead one is there until its mount point is free again: `ossfs umount` does that.
    """
    records = all_mounts(dead=True)
    if as_json:
        print_json([public(record) for record in records])
    elif not records:
        print("no bucket is mounted")
    else:
        rows = [
            (
                printable(record.source),
                printable(record.mountpoint),
                record.state,
                str(record.pid),
                since(record),
                record.endpoint,
            )
            for record in records
        ]
        print_table(("source", "mount point", "state", "process", "since", "endpoint"), rows)
    return 0


def all_mounts(*, dead: bool = False) -> list[MountRecord]:
    """The live mounts that this user may ask, oldest first; dead: then those whose processes have ended."""
    from ossfs.registry import all_registries

    registries = all_registries()
    records = [record for registry in registries for record in registry.mounts()]
    if dead:
        records += [record for registry in registries for record in registry.dead_mounts()]
    return records


def since(record: MountRecord) -> str:
    """When it was mounted, in UTC."""
    return datetime.fromtimestamp(record.started, UTC).isoformat(timespec="seconds")


def public(record: MountRecord) -> dict[str, object]:
    """What others are told of a mount."""
    return {
        "source": record.source,
        "mountpoint": record.mountpoint,
        "state": record.state,
        "pid": record.pid,
        "endpoint": record.endpoint,
        "since": since(record),
    }


def unmount_all(unmount: Callable[[str], int], complain: Callable[[str], None]) -> int:
    """*unmount* each mount, the youngest first, since one may lie in another; 1 when any failed.

    One that is in use, or dies, does not keep the others mounted.
    """
    status = 0
    for record in reversed(all_mounts()):
        try:
            status = max(status, unmount(record.mountpoint))
        except UserError as error:
            complain(str(error))
            status = 1
    return status
