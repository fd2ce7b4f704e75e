"""`ossfs status`: what the mounts of this host are doing, once or live.

Threading: the main thread of a command.

Speeds are the difference of two questions, as a mount keeps totals only.  For a person that is half a
second's; a live view has a second between two refreshes.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeAlias

import typer

from ossfs import __version__, errors
from ossfs.commands.mounts import all_mounts, public
from ossfs.commands.output import console, print_json, printable
from ossfs.errors import UserError

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from ossfs.registry import MountRecord

REFRESH: Final = 1.0
"""Seconds between two looks of a live view."""
SAMPLE: Final = 0.5
"""Seconds between the two looks of a single one."""
ANSWER_TIMEOUT: Final = 10.0
"""Seconds for each of several mounts: one that hangs must not keep the others from being shown."""
MOST_FILES: Final = 10
"""Files being written that are shown; --json has more."""

Shown: TypeAlias = dict[str, Any]
"""A document of status.py, or what is known of a mount that did not answer, with "error"."""


def status(
    mountpoint: Annotated[
        str | None, typer.Argument(metavar="MOUNTPOINT", help="one mount; all of this host otherwise")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="show it anew each second, until Ctrl-C")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="as JSON; with --watch one line each second")
    ] = False,
) -> int:
    """Show what the mounts of this host are doing: speeds, requests, caches, files being written, errors.

    Latencies are estimates, of all requests since the mount.  Exit status 1 when a mount does not answer.
    """
    ask = _asker(mountpoint)
    if watch:
        return _watch(ask, as_json)
    first = ask()
    if as_json:
        print_json(first if mountpoint is None else first[0])
        return _exit_status(first)
    if not any("error" not in one for one in first):
        return _print_once(first, None)
    time.sleep(SAMPLE)
    return _print_once(ask(), first)


def _asker(mountpoint: str | None) -> Callable[[], list[Shown]]:
    from ossfs.control import request_status

    if mountpoint is not None:
        return lambda: [request_status(mountpoint)]
    return lambda: [_answer_of(record) for record in all_mounts(dead=True)]


def _answer_of(record: MountRecord) -> Shown:
    from ossfs.control import status_of

    if record.state == "dead":
        line = f"its process has ended; this frees the mount point: ossfs umount {record.mountpoint}"
        return {**public(record), "error": line}
    try:
        return status_of(record, ANSWER_TIMEOUT)
    except UserError as error:
        return {**public(record), "error": str(error)}


def _exit_status(shown: list[Shown]) -> int:
    """One that is just beginning or ending has no socket yet, or no more: that is no failure."""
    return 1 if any("error" in one and one["state"] in ("mounted", "dead") for one in shown) else 0


def _print_once(shown: list[Shown], before: list[Shown] | None) -> int:
    if shown:
        console().print(render(shown, before))
    else:
        print("no bucket is mounted")
    return _exit_status(shown)


def _watch(ask: Callable[[], list[Shown]], as_json: bool) -> int:
    """Until Ctrl-C, which is the way to end it and no failure; or until the one mount has ended."""
    try:
        if as_json or not sys.stdout.isatty():
            _watch_plainly(ask, as_json)
        else:
            _watch_live(ask)
    except KeyboardInterrupt:
        pass
    except BrokenPipeError:
        _stop_writing()
    return 0


def _watch_plainly(ask: Callable[[], list[Shown]], as_json: bool) -> None:
    before: list[Shown] | None = None
    while True:
        shown = ask()
        if as_json:
            print(json.dumps(shown, ensure_ascii=False), flush=True)
        else:
            _print_once(shown, before)
            print(flush=True)
        before = shown
        time.sleep(REFRESH)


def _watch_live(ask: Callable[[], list[Shown]]) -> None:
    from rich.live import Live

    before = ask()
    live = Live(_or_none(before, None), console=console(), auto_refresh=False, screen=True)
    try:
        # Not as a context manager: Ctrl-C may come in its __enter__, and would leave the terminal changed.
        live.start(refresh=True)
        while True:
            time.sleep(REFRESH)
            shown = ask()
            live.update(_or_none(shown, before), refresh=True)
            before = shown
    finally:
        live.stop()


def _or_none(shown: list[Shown], before: list[Shown] | None) -> RenderableType:
    return render(shown, before) if shown else "no bucket is mounted"


def _stop_writing() -> None:
    """Whoever read standard output has gone: nothing more may be flushed into it at the end."""
    import os

    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


# --------------------------------------------------------------------------------------------------
# How it looks.


def render(shown: list[Shown], before: list[Shown] | None) -> RenderableType:
    """Everything of these mounts.  before: the same a moment earlier, for speeds."""
    from rich.console import Group

    earlier = {one.get("mountpoint"): one for one in before or []}
    blocks: list[RenderableType] = []
    for one in shown:
        if blocks:
            blocks.append("")
        if "error" in one:
            blocks.append(_text(f"{one['source']} on {one['mountpoint']}: {one['error']}", "red"))
        else:
            previous = earlier.get(one["mountpoint"])
            try:
                blocks += _mount(one, previous if previous is not None and "error" not in previous else None)
            except (KeyError, TypeError):
                # The program was replaced while it served: what it says of itself has changed since.
                blocks.append(
                    _text(
                        f"{one['source']} on {one['mountpoint']}: served by ossfs {one.get('version')}, "
                        f"whose status this ossfs {__version__} does not know; --json shows it as it is",
                        "red",
                    )
                )
    return Group(*blocks)


def _mount(one: Shown, previous: Shown | None) -> list[RenderableType]:
    blocks: list[RenderableType] = [
        _text(f"{one['source']} on {one['mountpoint']}", "bold"),
        _text(
            f"{one['state']}, process {one['pid']}, for {duration(one['uptime_seconds'])}, "
            f"{one['endpoint']}, ossfs {one['version']}"
        ),
        *([_text(f"metrics for Prometheus at {one['metrics_url']}")] if one["metrics_url"] else []),
        "",
        _transfer(one, previous),
        "",
    ]
    if one["requests"]:
        blocks += [_requests(one, previous), ""]
    blocks += [_facts(one)]
    if one["files"]["writing"]:
        blocks += ["", _files(one["files"])]
    return blocks


def _text(text: str, style: str = "") -> RenderableType:
    from rich.text import Text

    return Text(printable(text), style=style, overflow="fold")


def _table(*columns: str) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column, overflow="fold", justify="right" if index else "left")
    return table


def _transfer(one: Shown, previous: Shown | None) -> RenderableType:
    table = _table("bytes", "now", "since the mount")
    lines = (
        ("received from the bucket", "received_bytes"),
        ("sent to the bucket", "sent_bytes"),
        ("read by programs", "read_bytes"),
        ("written by programs", "written_bytes"),
    )
    for label, name in lines:
        total = one["transfer"][name]
        speed = _speed(one, previous, total, previous["transfer"][name] if previous else 0)
        table.add_row(label, "-" if speed is None else f"{size(speed)}/s", size(total))
    return table


def _speed(one: Shown, previous: Shown | None, now: float, earlier: float) -> float | None:
    """A second's, or None when it is not known."""
    if previous is None:
        return None
    elapsed = one["uptime_seconds"] - previous["uptime_seconds"]
    return max(0.0, (now - earlier) / elapsed) if elapsed > 0 else None


def _requests(one: Shown, previous: Shown | None) -> RenderableType:
    table = _table("requests", "now", "since the mount", "refused or failed", "p50", "p90", "p99")
    for operation, facts in one["requests"].items():
        earlier = previous["requests"].get(operation, {"sent": 0}) if previous else {"sent": 0}
        speed = _speed(one, previous, facts["sent"], earlier["sent"])
        table.add_row(
            operation,
            "-" if speed is None else f"{speed:.3g}/s",
            str(facts["sent"]),
            str(facts["finished"] - facts["answered"]),
            *(seconds(facts[f"{name}_seconds"]) for name in ("p50", "p90", "p99")),
        )
    return table


def _facts(one: Shown) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(overflow="fold")
    memory, files, cache = one["memory"], one["files"], one["cache"]
    used, limit = memory["used_bytes"], memory["limit_bytes"]
    table.add_row(
        "memory",
        f"{size(used)} of {size(limit)} ({percent(used, limit)}); {size(memory['peak_bytes'])} at the peak",
    )
    table.add_row("reads from memory", _hits(cache["memory"]))
    table.add_row("attributes from memory", _hits(cache["attributes"]))
    if cache["disk"] is not None:
        disk = cache["disk"]
        table.add_row(
            "reads from disk",
            f"{_hits(disk)}; it holds {size(disk['used_bytes'])} of {size(disk['limit_bytes'])}",
        )
    table.add_row("files", f"{files['open']} open, {one['inodes']} known")
    table.add_row(
        "to be uploaded",
        f"{plural(files['pending'], 'file')}, {size(files['pending_bytes'])} in memory, "
        f"{plural(files['uploads'], 'multipart upload')}",
    )
    if one.get("writeback") is not None:
        wait = one["writeback"]
        table.add_row(
            "on the local disk only",
            f"{plural(wait['files'], 'file')}, {size(wait['bytes'])} of {size(wait['limit_bytes'])}"
            + (f"; {wait['set_aside']} damaged, see ossfs pending" if wait["set_aside"] else ""),
        )
        for failing in wait["failing"][:MOST_FILES]:
            table.add_row("", Text(f"{printable(failing['key'])}: {printable(failing['error'])}"))
    table.add_row("errors", f"{_kinds(one['errors'], everyday=False)}; {plural(one['retries'], 'repeat')}")
    table.add_row("everyday answers", _kinds(one["errors"], everyday=True))
    table.add_row("charged requests", _cost(one["cost"]))
    last = one["last_error"]
    if last is not None:
        ago = duration(max(0.0, one["started"] + one["uptime_seconds"] - last["at"]))
        when = datetime.fromtimestamp(last["at"], UTC).isoformat(timespec="seconds")
        table.add_row("last error", Text(f"{ago} ago ({when}): {printable(last['text'])}"))
    return table


def _cost(cost: Shown) -> str:
    text = f"{cost['put_requests']} of the PUT class, {cost['get_requests']} of the GET class"
    if cost["estimate"] is None:
        return text
    return f"{text}: about {money(cost['estimate'])} by the prices of this mount, which is no bill"


def _kinds(counts: dict[str, int], *, everyday: bool) -> str:
    """The classes of errors that are news, or those that are not, with their counts."""
    kinds = [
        f"{kind} {count}"
        for kind, count in counts.items()
        if (getattr(errors, kind, errors.StoreError).level < logging.WARNING) == everyday
    ]
    return ", ".join(kinds) or "none"


def _hits(counts: dict[str, int]) -> str:
    asked = counts["hits"] + counts["misses"]
    return f"{percent(counts['hits'], asked)} of {asked}" if asked else "none yet"


def _files(files: Shown) -> RenderableType:
    table = _table("being written", "uploaded", "size", "parts", "on their way", "in memory")
    for one in files["writing"][:MOST_FILES]:
        table.add_row(
            _text(one["key"]),
            size(one["uploaded_bytes"]),
            size(one["size_bytes"]),
            str(one["parts"]),
            str(one["parts_in_flight"]),
            size(one["held_bytes"]),
        )
    if files["pending"] > MOST_FILES:
        table.add_row(f"and {files['pending'] - MOST_FILES} more")
    return table


# --------------------------------------------------------------------------------------------------
# Units.


def size(count: float) -> str:
    """Bytes in the unit that leaves at most four digits before the point: `1.5 MiB`."""
    units = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB")
    at = 0
    while count >= 1024 and at < len(units) - 1:
        count /= 1024
        at += 1
    return f"{count:.0f} bytes" if at == 0 else f"{count:.1f} {units[at]}"


def seconds(value: float | None) -> str:
    """A latency: `3.1 ms`, `1.20 s`; "-" for none."""
    if value is None:
        return "-"
    return f"{value * 1000:.1f} ms" if value < 1 else f"{value:.2f} s"


def duration(value: float) -> str:
    """How long: `8 s`, `5 min 3 s`, `2 h 5 min`, `3 d 4 h`."""
    whole = int(value)
    for big, small, length, part in (("d", "h", 86400, 3600), ("h", "min", 3600, 60), ("min", "s", 60, 1)):
        if whole >= length:
            return f"{whole // length} {big} {whole % length // part} {small}"
    return f"{whole} s"


def money(amount: float) -> str:
    """With two digits that count at least: `12.35`, `0.0027`."""
    return f"{amount:.2f}" if amount >= 1 or not amount else f"{amount:.2g}"


def plural(count: int, noun: str) -> str:
    """`1 file`, `2 files`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def percent(part: float, whole: float) -> str:
    """`12 %`; "-" of nothing."""
    return f"{100 * part / whole:.0f} %" if whole else "-"
