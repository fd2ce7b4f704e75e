"""The file of access keys that ossfs 1.x knows: lines of [bucket:]KEY_ID:SECRET.

Threading: a PasswdFile may be asked from any thread; `refresh` reads a local file.
"""

from __future__ import annotations

import os
import stat
from typing import Final

from ossfs import logs
from ossfs.errors import ConfigError
from ossfs.store.credentials import Credentials

SYSTEM_PASSWD_FILE: Final = "/etc/passwd-ossfs"  # noqa: S105  a path
"""The one file that a group may read: ossfs 1.x has it so (mode 640)."""


class PasswdFile:
    """Lines of `[bucket:]AccessKeyId:AccessKeySecret`; # begins a comment.  Read again by refresh.

    Raises ConfigError when the file cannot be used.
    """

    def __init__(self, bucket: str, path: str) -> None:
        self._bucket = bucket
        self._path = path
        self.source = f"passwd_file {path}"
        self._credentials = self._read()

    def get(self) -> Credentials:
        return self._credentials

    def refresh(self) -> None:
        """Read the file again: somebody may have put new keys there."""
        self._credentials = self._read()

    def _read(self) -> Credentials:
        path = self._path
        try:
            with open(path, encoding="utf-8") as file:
                mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
                allowed = 0o640 if path == SYSTEM_PASSWD_FILE else 0o600
                if mode & 0o077 & ~allowed:
                    raise ConfigError(
                        f"passwd_file {path} has mode {mode:04o}: others could use its secrets; "
                        f"make it {allowed:04o} (chmod {allowed:o} {path})"
                    )
                text = file.read()
        except OSError as error:
            raise ConfigError(f"passwd_file {path} cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise ConfigError(f"passwd_file {path} is not text: lines are [bucket:]KEY_ID:SECRET") from None
        return self._parse(text)

    def _parse(self, text: str) -> Credentials:
        general: Credentials | None = None
        for number, line in enumerate(text.splitlines(), 1):
            line = line.strip()
            if not line or line.startswith("#"):
                continue
            fields = [part.strip() for part in line.split(":")]
            if len(fields) not in (2, 3) or not all(fields):
                raise ConfigError(
                    f"passwd_file {self._path} line {number} is malformed: lines are [bucket:]KEY_ID:SECRET"
                )
            credentials = Credentials(fields[-2], fields[-1])
            logs.hide(credentials.access_key_secret)
            if len(fields) == 3 and fields[0] == self._bucket:
                return credentials
            if len(fields) == 2 and general is None:
                general = credentials
        if general is None:
            raise ConfigError(
                f"passwd_file {self._path} has no line for bucket {self._bucket}: "
                "lines are [bucket:]KEY_ID:SECRET"
            )
        return general
