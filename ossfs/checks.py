"""What `ossfs check` looks at: the service and what the keys may do there, and this machine.

Threading: `check_bucket` and `find_unshowable` run on a trio loop of the command's own; the other functions
block on local files only.

Each look is a Finding, in the order in which a mount needs it; what cannot be looked at because an earlier
thing is missing is not in the list.  The write permissions are tried on a hidden key of the form that no
mount lists, and that key is removed.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Final, Literal, TypeAlias

from ossfs.access import keep_acl, written_as
from ossfs.config import MountConfig
from ossfs.errors import AccessDenied, MountError, StoreError
from ossfs.fs.names import showable
from ossfs.mountpoint import FSTYPE, check_fuse, check_mountpoint, is_dead, mount_at, resolve_mountpoint
from ossfs.preflight import failed_step, format_duration, reason
from ossfs.store.base import BucketInfo, ObjectHeaders, ObjectStore
from ossfs.updatedb import advice

Outcome: TypeAlias = Literal["ok", "note", "FAILED"]

MAX_SKEW: Final = 900.0
"""Seconds of clock difference from which the service refuses requests (its error RequestTimeTooSkewed)."""
NOTABLE_SKEW: Final = 60.0
"""Seconds from which a difference is worth a word: times of files come from both clocks."""
PART_BYTES: Final = 100 * 1024
"""The smallest part that the service takes when it is not the last."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.  fix: what to do; "" when there is nothing."""

    what: str
    outcome: Outcome
    found: str
    fix: str = ""


def _failed(what: str, line: str) -> Finding:
    """A message of the product as a finding: what is wrong ends at its first semicolon."""
    found, _, fix = line.partition("; ")
    return Finding(what, "FAILED", found, fix)


# --------------------------------------------------------------------------------------------------
# This machine.


def check_machine(config: MountConfig, mountpoint: str | None) -> list[Finding]:
    """/dev/fuse, user_allow_other, and the mount point when one is given."""
    findings = []
    try:
        check_fuse(False)
        findings.append(Finding("/dev/fuse", "ok", "may be opened"))
    except MountError as error:
        findings.append(_failed("/dev/fuse", str(error)))
    if not config.allow_other:
        findings.append(Finding("allow_other", "ok", "not asked for: only who mounts may use the mount"))
    elif os.geteuid() == 0:
        findings.append(Finding("allow_other", "ok", "root needs no user_allow_other"))
    else:
        try:
            check_fuse(True)
            findings.append(Finding("allow_other", "ok", "/etc/fuse.conf has user_allow_other"))
        except MountError as error:
            if findings[0].outcome == "ok":
                findings.append(_failed("allow_other", str(error)))
    if mountpoint is not None:
        findings.append(_mountpoint(config, mountpoint))
        crawl = advice(resolve_mountpoint(mountpoint), allow_other=config.allow_other)
        if crawl:
            found, _, fix = crawl.partition("; ")
            findings.append(Finding("updatedb", "note", found, fix))
    return findings


def _mountpoint(config: MountConfig, path: str) -> Finding:
    place = resolve_mountpoint(path)
    mount = mount_at(place)
    if mount is not None and mount.fstype == FSTYPE:
        if is_dead(place):
            return Finding(
                "mount point",
                "FAILED",
                f"{place} holds a mount of {mount.source} whose process has ended",
                f"mount there again, which cleans it up, or run: ossfs umount {place}",
            )
        return Finding("mount point", "ok", f"{place} is a mount of {mount.source}, and answers")
    try:
        check_mountpoint(place, config.nonempty)
    except MountError as error:
        return _failed("mount point", str(error))
    return Finding("mount point", "ok", f"{place} can be mounted at")


# --------------------------------------------------------------------------------------------------
# The service.


async def check_bucket(store: ObjectStore, config: MountConfig) -> AsyncIterator[Finding]:
    """Endpoint, clock, keys, region and permissions, as far as one after the other can be found out."""
    prefix = f"{config.prefix}/" if config.prefix else ""
    once: ObjectStore = getattr(store, "once", store)
    began = time.time()
    try:
        page = await once.list(prefix, delimiter="/", max_keys=1)
    except StoreError as error:
        for finding in _first_failure(error, config):
            yield finding
        return
    yield Finding("endpoint", "ok", f"{config.endpoint_url} answers")
    yield _clock((began + time.time()) / 2 - page.server_date)
    yield Finding(
        "signature",
        "ok",
        "the service accepts the keys"
        if config.credentials != "anonymous"
        else "none: the bucket lets everybody list it",
    )
    yield Finding("list", "ok", "oss:ListObjects")

    info: BucketInfo | None = None
    try:
        info = await once.bucket_info()
    except StoreError as error:
        if not isinstance(error, AccessDenied):
            yield _denied("bucket info", "oss:GetBucketInfo", error)
        else:
            yield Finding(
                "bucket info",
                "note",
                "may not be read: region, versioning and encryption are not known",
                f"grant oss:GetBucketInfo on bucket {config.bucket}",
            )
    if info is not None:
        for finding in _bucket(info, config):
            yield finding
    if config.ro:
        yield Finding("put", "note", "not tried: ro is set, and nothing will be written")
        return
    async for finding in _permissions(once, config, prefix, acls=keep_acl(config, info)):
        yield finding


def _clock(skew: float) -> Finding:
    """skew: seconds that this machine is ahead; the service's Date has whole seconds."""
    if abs(skew) < NOTABLE_SKEW:
        return Finding("clock", "ok", "agrees with the service's")
    words = f"{format_duration(abs(skew))} {'ahead of' if skew > 0 else 'behind'} the service's"
    fix = "set it, as with: timedatectl set-ntp true"
    return Finding("clock", "FAILED" if abs(skew) >= MAX_SKEW else "note", words, fix)


def _first_failure(error: StoreError, config: MountConfig) -> list[Finding]:
    """Where the very first request failed, and what that proves of what lies before it."""
    line = reason(error, config, time.time() - error.server_date if error.server_date else None)
    step = failed_step(error)
    if step == "endpoint":
        return [_failed(step, line)]
    reached = [Finding("endpoint", "ok", f"{config.endpoint_url} answers")]
    if error.server_date and step != "clock":
        reached.append(_clock(time.time() - error.server_date))
    return [*reached, _failed(step, line)]


def _bucket(info: BucketInfo, config: MountConfig) -> list[Finding]:
    findings = []
    location = info.location.removeprefix("oss-")
    region = config.signing_region
    if region is None:
        findings.append(
            Finding(
                "region",
                "note",
                f"{location}; no region is set, so requests are signed with V1",
                f"set -o region={location} for V4 signatures",
            )
        )
    elif location and location != region:
        findings.append(
            Finding(
                "region", "FAILED", f"the bucket is in {location}, not {region}", f"set -o region={location}"
            )
        )
    else:
        findings.append(Finding("region", "ok", region))
    if not info.versioning:
        findings.append(Finding("versioning", "ok", "never enabled"))
    elif config.excl == "strict":
        findings.append(
            Finding(
                "versioning",
                "FAILED",
                f"{info.versioning}, where the service ignores forbid-overwrite: excl=strict cannot be kept",
                "mount with -o excl=local",
            )
        )
    else:
        findings.append(
            Finding(
                "versioning",
                "note",
                f"{info.versioning}: old versions are kept and paid for; two machines that create one file "
                "at the same moment are told apart by a look beforehand only",
                "a lifecycle rule removes old versions",
            )
        )
    ours = config.encryption or "not asked for"
    findings.append(
        Finding("encryption", "ok", f"of the mount: {ours}; of the bucket: {info.encryption or 'none'}")
    )
    return findings


def _denied(what: str, action: str, error: StoreError) -> Finding:
    said = " ".join(error.message.split())[:200]
    facts = f" [{error.status} {error.code}, request id {error.request_id}]" if error.status else ""
    if isinstance(error, AccessDenied):
        return Finding(what, "FAILED", f"refused: {said}{facts}", f"grant {action} to these keys")
    return Finding(
        what, "FAILED", f"{type(error).__name__}: {said}{facts}", "try again; see docs/troubleshooting.md"
    )


async def _permissions(
    store: ObjectStore, config: MountConfig, prefix: str, *, acls: bool
) -> AsyncIterator[Finding]:
    """Put, get, multipart and delete, on a hidden key that is removed again.  acls: and the ACL's."""
    key = f"{prefix}.ossfs-{secrets.token_hex(8)}/check"
    body = secrets.token_bytes(64)
    # As the mount would write, but for a class for which even this object costs a month.
    headers = replace(written_as(config), storage_class=None).over(
        ObjectHeaders(content_type="application/octet-stream")
    )

    async def try_it(what: str, action: str, work: Callable[[], Awaitable[object]]) -> Finding:
        try:
            await work()
        except StoreError as error:
            return _denied(what, action, error)
        return Finding(what, "ok", action)

    async def get() -> None:
        into = bytearray(len(body))
        await store.get(key, memoryview(into))
        if into != body:
            raise StoreError("the object holds other bytes than were put")

    put = await try_it("put", "oss:PutObject", lambda: store.put(key, [body], headers))
    yield put
    if put.outcome == "ok":
        yield await try_it("get", "oss:GetObject", get)
        if acls:
            asked = await try_it("acl", "oss:GetObjectAcl", lambda: store.get_acl(key))
            # The mount works without: ACLs of objects are lost then, which it says in its log.
            yield replace(asked, outcome="note") if asked.outcome == "FAILED" else asked
    upload = ""

    async def multipart() -> None:
        nonlocal upload
        upload = await store.initiate(key, headers)
        await store.put_part(key, upload, 1, [bytes(PART_BYTES)])

    if put.outcome == "ok":
        sent = await try_it("multipart", "oss:PutObject", multipart)
        yield sent
    if upload:
        yield await try_it("abort", "oss:AbortMultipartUpload", lambda: store.abort(key, upload))
    if put.outcome == "ok":
        removed = await try_it("delete", "oss:DeleteObject", lambda: store.delete(key))
        if removed.outcome != "ok":
            removed = Finding(
                removed.what, removed.outcome, f"{removed.found}; {key} stays in the bucket", removed.fix
            )
        yield removed


# --------------------------------------------------------------------------------------------------
# Keys.


@dataclass(frozen=True)
class Unshowable:
    """A key that is no path in the mount, and why."""

    key: str
    why: str


async def find_unshowable(store: ObjectStore, prefix: str) -> AsyncIterator[Unshowable]:
    """The keys below *prefix* ("" or with a slash at its end) that the mount cannot show.

    Lists everything: a request for each thousand keys.
    """
    marker: str | None = ""
    shadowed: list[str] = []
    while marker is not None:
        page = await store.list(prefix, marker=marker)
        for entry in page.objects:
            # In byte order, what lies between `a` and `a/b` begins with `a`: the keys that may yet turn
            # out to be directories, too, are a short pile.
            while shadowed and not entry.key.startswith(shadowed[-1]):
                shadowed.pop()
            for candidate in [one for one in shadowed if entry.key.startswith(one + "/")]:
                shadowed.remove(candidate)
                yield Unshowable(candidate, "a directory has the same name, and hides it")
            problem = unshowable_because(entry.key[len(prefix) :])
            if problem:
                yield Unshowable(entry.key, problem)
            elif not entry.key.endswith("/"):
                shadowed.append(entry.key)
        if page.undecodable:
            yield Unshowable(
                f"{page.undecodable} of the keys from {marker or prefix!r} on", "they are not UTF-8"
            )
        marker = page.next_marker


def unshowable_because(path: str) -> str:
    """Why this key, without the mount's prefix, is no path; "" when it is one, or is ossfs' own."""
    if not path:
        return ""  # the marker of the mount's root
    names = path.removesuffix("/").split("/")
    for at, name in enumerate(names):
        if name == "":
            return "it has an empty component: two slashes, or one at its beginning"
        if name in (".", ".."):
            return f"it has the component {name}"
        if "\0" in name:
            return "it has a NUL byte"
        if not showable(name, in_root=False):
            return "it has a component of more than 255 bytes"
        if at == 0 and not showable(name, in_root=True):
            return ""
    return ""
