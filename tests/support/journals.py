"""Journals for tests.  No state outside the objects."""

from __future__ import annotations


class NotedJournal:
    """What the journal would name if the mount died now."""

    def __init__(self) -> None:
        self.uploads: set[tuple[str, str]] = set()
        self.hidden: set[str] = set()

    def upload_started(self, key: str, upload_id: str) -> None:
        self.uploads.add((key, upload_id))

    def upload_ended(self, key: str, upload_id: str) -> None:
        self.uploads.remove((key, upload_id))

    def hidden_created(self, key: str, *, restore_to: str | None = None, write_id: str | None = None) -> None:
        self.hidden.add(key)

    def hidden_deleted(self, key: str) -> None:
        self.hidden.remove(key)
