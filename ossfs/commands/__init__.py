"""Commands of `ossfs` that have modules of their own, and where they are added to the command line.

Threading: the main thread of a process that has no other.  What is large to import is imported by the
command that needs it.
"""

from __future__ import annotations

import typer

from ossfs.commands import check, config, helper, mounts, pending, status, url


def register(app: typer.Typer) -> None:
    """Add them to *app*."""
    app.command(name="config")(config.show_config)
    app.command(name="check")(check.check)
    app.command(name="url")(url.url)
    app.command(name="list")(mounts.list_mounts)
    app.command(name="install-helper")(helper.install_helper)
    app.command(name="pending")(pending.pending)
    app.command(name="status")(status.status)
