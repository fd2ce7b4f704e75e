"""`ossfs check SOURCE`: would a mount work, and if not, what to do.

Threading: the main thread of a command, which runs a trio loop of its own.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from ossfs.commands.output import print_json, print_table, printable
from ossfs.commands.params import Options, Source
from ossfs.errors import ConfigError, NoCredentials

if TYPE_CHECKING:
    from ossfs.checks import Finding, Unshowable
    from ossfs.config import MountConfig

CALL_SECONDS = 20.0
"""For one request with its repeats: a person waits."""


def check(
    source: Source,
    options: Options = None,
    mountpoint: Annotated[
        str | None, typer.Option("--mountpoint", metavar="DIR", help="look at this mount point, too")
    ] = None,
    keys: Annotated[
        bool, typer.Option("--keys", help="list the keys that cannot be shown as paths; reads all names")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="as JSON")] = False,
) -> int:
    """Check whether a mount would work: endpoint, clock, keys, each permission, and this machine.

    Writes one small hidden object and removes it.  Exit status 1 when something has to be mended.
    """
    from ossfs import logs
    from ossfs.config import load_config

    config = load_config(source, mountpoint or "/", options or [])
    logs.set_up("error", background=False)
    findings, unshowable = examine(config, mountpoint, keys)
    wrong = any(finding.outcome == "FAILED" for finding in findings)
    if as_json:
        shown: dict[str, object] = {
            "source": config.source,
            "endpoint_url": config.endpoint_url,
            "ok": not wrong,
            "findings": [asdict(finding) for finding in findings],
        }
        if keys:
            shown["keys"] = [asdict(entry) for entry in unshowable]
        print_json(shown)
        return 1 if wrong else 0
    rows = [(one.what, one.outcome, printable(one.found), printable(one.fix)) for one in findings]
    print_table(
        ("check", "result", "found", "to do"), rows, {"ok": "green", "FAILED": "red", "note": "yellow"}
    )
    if keys and unshowable:
        print()
        print_table(("key", "why it is no path"), [(printable(one.key), one.why) for one in unshowable])
    elif keys:
        print("\nall keys can be shown as paths")
    return 1 if wrong else 0


def examine(
    config: MountConfig, mountpoint: str | None, keys: bool
) -> tuple[list[Finding], list[Unshowable]]:
    """All findings, and the keys that are no paths when *keys*."""
    import trio

    from ossfs.access import find_credentials, store_config
    from ossfs.checks import Finding, check_bucket, check_machine, find_unshowable
    from ossfs.metrics import Metrics
    from ossfs.store.oss import open_store

    findings = check_machine(config, mountpoint)
    try:
        credentials = find_credentials(config)
    except NoCredentials as error:
        found = f"none; looked at: {'; '.join(error.looked_at)}"
        return [*findings, Finding("credentials", "FAILED", found, error.accepted)], []
    except ConfigError as error:
        return [*findings, Finding("credentials", "FAILED", str(error), "mend that source of keys")], []
    findings.append(Finding("credentials", "ok", f"from {credentials.source}"))
    settings = store_config(config, call_timeout=CALL_SECONDS)
    unshowable: list[Unshowable] = []

    async def work() -> None:
        async with open_store(settings, credentials, Metrics()) as store:
            async for finding in check_bucket(store, config):
                findings.append(finding)
            listed = any(one.what == "list" and one.outcome == "ok" for one in findings)
            if keys and listed:
                prefix = f"{config.prefix}/" if config.prefix else ""
                async for entry in find_unshowable(store, prefix):
                    unshowable.append(entry)

    trio.run(work)
    return findings, unshowable
