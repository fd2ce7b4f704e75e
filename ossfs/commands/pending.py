"""`ossfs pending`: what write-back left on the local disk, and what to do with it.

Threading: the main thread of a command.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ossfs.commands.output import print_json, print_table, printable

if TYPE_CHECKING:
    from ossfs.leftovers import Leftovers


def pending(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="as for mount")],
    options: Annotated[
        list[str] | None, typer.Option("-o", metavar="OPT[,OPT...]", help="as for mount, with its cache_dir")
    ] = None,
    upload: Annotated[
        bool, typer.Option("--upload", help="upload what waits, as the next mount would")
    ] = False,
    put: Annotated[
        list[str] | None,
        typer.Option(
            "--put", metavar="NAME", help="put a damaged one into the bucket, as FILE.damaged-HOST-TIME"
        ),
    ] = None,
    drop: Annotated[
        list[str] | None,
        typer.Option(
            "--drop", metavar="NAME", help="give one up for good: the key, or the name of a damaged one"
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="as JSON")] = False,
) -> int:
    """List the files that an ended mount with writeback has left in its cache_dir, and the damaged ones.

    The next mount uploads what waits.  Exit status 1 when an upload fails.  Of a mount that runs, `ossfs
    status` says what is pending.
    """
    from ossfs import logs
    from ossfs.config import load_config
    from ossfs.leftovers import Leftovers

    config = load_config(source, "/", options or [])
    logs.set_up("warning", background=False)
    with Leftovers(config) as left:
        for name in drop or []:
            left.drop(name)
        for name in put or []:
            key = left.put(name)
            if not as_json:
                print(f"{printable(name)} is in the bucket as {printable(key)}")
        failed = left.upload() if upload else []
        if as_json:
            print_json({**_document(left), "failed": failed})
        else:
            _print(left)
            for line in failed:
                print(f"not uploaded: {printable(line)}")
    return 1 if failed else 0


def _document(left: Leftovers) -> dict[str, Any]:
    return {
        "waiting": [{"key": key, **facts} for key, facts in sorted(left.waiting.items())],
        "damaged": [
            {
                "name": one.name,
                "key": one.meta["key"] if one.meta is not None else None,
                "bytes": len(one.data),
                "path": one.path,
            }
            for one in left.damaged
        ],
    }


def _print(left: Leftovers) -> None:
    rows = [
        (printable(key), str(facts["bytes"]), _when(facts["closed"]), "the next mount uploads it")
        for key, facts in sorted(left.waiting.items())
    ]
    for one in left.damaged:
        key = one.meta["key"] if one.meta is not None else "of a file whose name cannot be read"
        when = _when(one.meta.get("closed")) if one.meta is not None else ""
        rows.append((one.name, str(len(one.data)), when, f"damaged: {printable(key)}"))
    if rows:
        print_table(("name", "bytes", "closed", "state"), rows)
    else:
        print("nothing is pending")


def _when(seconds: object) -> str:
    if not isinstance(seconds, int):
        return ""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
