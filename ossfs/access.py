"""How a configuration's bucket is reached: its credentials, and what the store is told.

Threading: `find_credentials` blocks; `forget_secrets` is called once, before threads are started.
"""

from __future__ import annotations

import ctypes
import logging
import os
from typing import TYPE_CHECKING

from ossfs.config import MountConfig
from ossfs.store.base import BucketInfo, StoredAs
from ossfs.store.chain import Wanted, load_credentials
from ossfs.store.credentials import CredentialsProvider
from ossfs.store.remote import SECRET_VARIABLES

if TYPE_CHECKING:
    from ossfs.store.calls import StoreConfig

log = logging.getLogger(__name__)


def wanted_credentials(config: MountConfig) -> Wanted:
    """What the options say of credentials."""
    return Wanted(
        bucket=config.bucket,
        choice=config.credentials,
        passwd_file=config.passwd_file,
        process=config.credential_process,
        ram_role=config.ram_role,
        role_arn=config.role_arn,
        profile=config.profile,
    )


def find_credentials(config: MountConfig) -> CredentialsProvider:
    """The credentials for the bucket of *config*; ConfigError says what was looked at.  Blocks."""
    return load_credentials(wanted_credentials(config), os.environ)


def store_config(config: MountConfig, *, call_timeout: float | None = None) -> StoreConfig:
    """What the store is told.  call_timeout: seconds for one call; op_timeout when not given."""
    from ossfs.store.calls import StoreConfig  # not before a mount has forked: trio comes with it

    return StoreConfig(
        bucket=config.bucket,
        endpoint=config.endpoint_url,
        region=config.signing_region,
        ca_file=config.ca_file,
        requester_pays=config.requester_pays,
        traffic_limit=config.traffic_limit,
        max_connections=config.connections,
        call_timeout=call_timeout or config.op_timeout,
    )


def written_as(config: MountConfig) -> StoredAs:
    """How what this mount writes is to be kept."""
    return StoredAs(
        storage_class=config.storage_class,
        encryption=config.encryption,
        encryption_key_id=config.kms_key_id,
        acl=config.acl,
    )


def keep_acl(config: MountConfig, bucket: BucketInfo | None) -> bool:
    """Are the ACLs of objects asked for, to be kept?  bucket: what it says of itself, if it does.

    auto: where losing one would let the public in, or might.
    """
    if config.keep_acl == "auto":
        return bucket is None or bucket.acl != "private"
    return config.keep_acl == "always"


def forget_secrets() -> None:
    """Take access keys out of this process's environment, for its children and for /proc/PID/environ.

    /proc/PID/environ shows the memory in which the environment was handed over at exec, whatever was set or
    unset later; so the values are overwritten there.  Where the kernel does not say where that is, they stay:
    only root and the user himself can read them.
    """
    present = [name for name in SECRET_VARIABLES if os.environ.pop(name, "")]
    if not present:
        return
    try:
        with open("/proc/self/stat", "rb") as file:
            # proc(5): fields 50 and 51, counted from 1; the second is a name that may hold blanks.
            fields = file.read().rpartition(b")")[2].split()
        start, end = int(fields[47]), int(fields[48])
    except (OSError, ValueError, IndexError) as error:
        log.debug("the environment's place is not known: %s", error)
        return
    if not 0 < start < end:
        return
    block = ctypes.string_at(start, end - start)
    offset = 0
    for entry in block.split(b"\0"):
        key, equals, value = entry.partition(b"=")
        if equals and value and os.fsdecode(key) in present:
            ctypes.memset(start + offset + len(key) + 1, 0, len(value))
        offset += len(entry) + 1
