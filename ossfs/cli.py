"""The command `ossfs`: mount, umount, cleanup, serve; commands/ has the others.

Threading: the main thread of a process that has no other.  `mount` forks, so nothing here may start a
thread, and what is large to import is imported by the command that needs it.

A UserError is one line on standard error and exit status 1; wrong usage is exit status 2.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand

from ossfs import __version__
from ossfs.commands import register
from ossfs.commands.params import Options, Source
from ossfs.daemon import user_error_in
from ossfs.errors import ConfigError, MountError, UserError

if TYPE_CHECKING:
    from ossfs.config import MountConfig
    from ossfs.control import UploadProgress
    from ossfs.store.credentials import CredentialsProvider

app = typer.Typer(
    name="ossfs",
    help="An Alibaba Cloud OSS bucket as a directory.",
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"ossfs {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """An Alibaba Cloud OSS bucket as a directory."""


# --------------------------------------------------------------------------------------------------
# mount


class _MountCommand(TyperCommand):
    """Its help ends with all options, which are not known before the configuration's module is imported."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """See click.Command."""
        from ossfs.config import MountConfig, option_names

        with formatter.section("Options of -o"):
            fields = MountConfig.model_fields
            formatter.write_dl([(name, fields[name].description or "") for name in option_names()])


@app.command(cls=_MountCommand)
def mount(
    source: Source,
    mountpoint: Annotated[str, typer.Argument(metavar="MOUNTPOINT", help="an existing, empty directory")],
    options: Annotated[
        list[str] | None,
        typer.Option("-o", metavar="OPT[,OPT...]", help="as in -o region=cn-hangzhou,ro"),
    ] = None,
    foreground: Annotated[
        bool, typer.Option("-f", help="stay in the foreground, log to standard error")
    ] = False,
) -> int:
    """Mount a bucket; return once it is usable.

    Credentials come from OSS_ACCESS_KEY_ID, OSS_ACCESS_KEY_SECRET and OSS_SESSION_TOKEN in the environment,
    from -o passwd_file=FILE, from files of ossutil and aliyun, or from a RAM role (-o credentials= names one
    of them), never from an argument.  Each option may also be an environment variable
    (OSSFS_REGION) or a line of a TOML file (-o config=FILE).
    """
    from ossfs import logs
    from ossfs import mountpoint as places
    from ossfs.config import load_config
    from ossfs.private import check_private

    config = load_config(source, mountpoint, options or [])
    credentials = _credentials(config)
    _check_readable("ca_file", config.ca_file)
    places.check_fuse(config.allow_other)
    check_private(config.state_dir, "state_dir")
    log_place = logs.set_up(
        config.log_level, background=not foreground, log_file=config.log_file, state_dir=config.state_dir
    )
    place = places.check_mountpoint(config.mountpoint, config.nonempty)
    config = config.model_copy(update={"mountpoint": place})
    _await_turn(config)
    _warn_of_updatedb(config)
    if foreground:
        return _serve_mount(config, lambda: None, credentials)

    from ossfs.daemon import run_in_background

    return run_in_background(lambda ready: _serve_mount(config, ready, credentials), log_place=log_place)


def _warn_of_updatedb(config: MountConfig) -> None:
    from ossfs.updatedb import advice

    line = advice(config.mountpoint, allow_other=config.allow_other)
    if line:
        _complain(f"warning: {line}")


def _serve_mount(config: MountConfig, ready: Callable[[], None], credentials: CredentialsProvider) -> int:
    # Imported by the process that serves, after the fork: trio and pyfuse3 come with it.
    from ossfs.mount import run

    return run(config, ready, credentials)


def _credentials(config: MountConfig) -> CredentialsProvider:
    """Find the keys, or say what is missing, before anything else is begun."""
    from ossfs.access import find_credentials

    return find_credentials(config)


def _check_readable(option: str, path: str | None) -> None:
    if path is not None and not os.access(path, os.R_OK):
        raise ConfigError(
            f"{option}={path} cannot be read; accepted: an existing file that this user may read"
        )


def _await_turn(config: MountConfig) -> None:
    """Wait, here where a person sees why, for an earlier mount that still uploads; refuse to mount twice."""
    from ossfs.registry import Registry

    registry = Registry()
    for record in registry.mounts():
        if record.mountpoint == config.mountpoint and record.state == "starting":
            raise MountError(
                f"process {record.pid} is mounting {record.source} at {record.mountpoint} at this moment"
            )
    left = registry.wait_for_predecessors(config.bucket, config.prefix, config.endpoint_url, report=_complain)
    if left:
        raise MountError(
            f"process {left[0].pid} still uploads files of an earlier mount of {config.source}; wait for it, "
            "or end it and lose them"
        )


# --------------------------------------------------------------------------------------------------
# cleanup


@app.command()
def cleanup(
    source: Source,
    options: Options = None,
    older_than: Annotated[
        str,
        typer.Option("--older-than", metavar="AGE", help="only of mounts that ended that long ago: 1d"),
    ] = "0s",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only say what would be done")] = False,
) -> int:
    """Abort the uploads, and delete the hidden objects, that dead mounts of this host left in a bucket.

    The next mount does the same by itself.  What other hosts left is not touched.
    """
    from ossfs import logs
    from ossfs.config import load_config
    from ossfs.values import parse_age

    try:
        age = parse_age(older_than)
    except ValueError as error:
        raise ConfigError(f"--older-than {older_than} {error}") from None
    config = load_config(source, "/", options or [])
    logs.set_up("warning", background=False)

    from ossfs.mount import clean_up

    count = clean_up(config, older_than=age, dry_run=dry_run, report=print)
    if not count:
        print("nothing to clean up")
    return 0


# --------------------------------------------------------------------------------------------------
# umount


@app.command()
def umount(
    mountpoint: Annotated[
        str | None, typer.Argument(metavar="MOUNTPOINT", help="where the bucket is mounted")
    ] = None,
    all_of_them: Annotated[bool, typer.Option("--all", help="all mounts that `ossfs list` shows")] = False,
) -> int:
    """Unmount, once everything that was written is in the bucket."""
    if all_of_them == (mountpoint is not None):
        raise typer.BadParameter("expected either a MOUNTPOINT or --all")
    if mountpoint is not None:
        return _unmount(mountpoint)
    from ossfs.commands.mounts import unmount_all

    return unmount_all(_unmount, _complain)


def _unmount(mountpoint: str) -> int:
    from ossfs.control import request_unmount

    with ProgressLine() as show:
        failed = request_unmount(mountpoint, show)
    for name in failed:
        _complain(f"failed to upload: {_printable(name)}")
    return 1 if failed else 0


class ProgressLine:
    """One line that is kept up to date on a terminal; elsewhere a new line when something has changed.

    quiet: none at all.
    """

    def __init__(self, quiet: bool = False) -> None:
        self._quiet = quiet
        self._status: Any = None
        self._last = ""

    def __enter__(self) -> Callable[[UploadProgress], None]:
        return self._show

    def _show(self, progress: UploadProgress) -> None:
        line = progress_text(progress)
        if self._quiet or not line or line == self._last:
            return
        self._last = line
        if not sys.stderr.isatty():
            print(f"ossfs: uploading: {line}", file=sys.stderr, flush=True)
            return
        if self._status is None:
            from rich.console import Console

            self._status = Console(stderr=True).status(f"uploading: {line}")
            self._status.start()
        self._status.update(f"uploading: {line}")

    def __exit__(self, *_: object) -> None:
        if self._status is not None:
            self._status.stop()


def progress_text(progress: UploadProgress) -> str:
    """`3 files, 120 of 300 MB`; "" when nothing is known."""
    files = progress.get("files")
    if not files:
        return ""
    text = f"{files} file{'' if files == 1 else 's'}"
    total = progress.get("bytes_total", 0)
    if not total:
        return text
    units = (("GB", 1 << 30), ("MB", 1 << 20), ("KB", 1 << 10))
    unit, size = next(((name, size) for name, size in units if total >= 2 * size), ("bytes", 1))
    return f"{text}, {progress.get('bytes_done', 0) // size} of {-(-total // size)} {unit}"


# --------------------------------------------------------------------------------------------------
# serve


@app.command()
def serve(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="where the objects are kept; made when missing")
    ],
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free")] = 0,
    host: Annotated[str, typer.Option(help="address to listen at")] = "127.0.0.1",
    bucket: Annotated[list[str] | None, typer.Option(help="make this bucket; may be repeated")] = None,
    region: Annotated[str, typer.Option(help="the region it says it is")] = "cn-hangzhou",
    cert: Annotated[Path | None, typer.Option(help="PEM certificate: speak TLS")] = None,
    key: Annotated[Path | None, typer.Option(help="PEM key of --cert")] = None,
    control: Annotated[bool, typer.Option("--control", help="accept scripted faults, for tests")] = False,
) -> int:
    """Run an OSS service in a directory: to try ossfs, and to test with.

    Its credentials are those of OSS_ACCESS_KEY_ID and OSS_ACCESS_KEY_SECRET in the environment, or made and
    printed.
    """
    if (cert is None) != (key is None):
        raise UserError("--cert and --key belong together; give both, or neither for http")
    from ossfs import server

    access_key_id = os.environ.get("OSS_ACCESS_KEY_ID") or None
    access_key_secret = os.environ.get("OSS_ACCESS_KEY_SECRET") or None
    if (access_key_id is None) != (access_key_secret is None):
        raise UserError("OSS_ACCESS_KEY_ID and OSS_ACCESS_KEY_SECRET belong together; set both, or neither")
    buckets = tuple(bucket or ())
    config = server.ServerConfig(
        directory=directory,
        host=host,
        port=port,
        buckets=buckets,
        access_key_id=access_key_id,
        access_key_secret=access_key_secret,
        region=region,
        cert=cert,
        key=key,
        control=control,
    )

    def on_ready(url: str, key_id: str, secret: str) -> None:
        made = None if access_key_secret else (key_id, secret)
        print(serving_text(str(directory), url, made, buckets[0] if buckets else "BUCKET", cert), flush=True)

    try:
        server.serve(config, on_ready=on_ready)
    except server.ServerError as error:
        raise UserError(str(error)) from None
    except OSError as error:
        raise UserError(f"cannot serve {directory} at {host}:{port}: {error.strerror or error}") from None
    return 0


def serving_text(
    directory: str, url: str, made: tuple[str, str] | None, bucket: str, cert: Path | None
) -> str:
    """What `serve` prints: where it is, and lines to paste into a shell that mount it.

    made: credentials that the server made; others are not shown.
    """
    import shlex

    lines = [f"serving {directory} at {url}", ""]
    if made is not None:
        lines += [f"export OSS_ACCESS_KEY_ID={shlex.quote(made[0])}"]
        lines += [f"export OSS_ACCESS_KEY_SECRET={shlex.quote(made[1])}"]
    else:
        lines += ["# with OSS_ACCESS_KEY_ID and OSS_ACCESS_KEY_SECRET as they are set here"]
    ca = f",ca_file={shlex.quote(os.path.abspath(cert))}" if cert is not None else ""
    lines += ["mkdir -p /tmp/bucket", f"ossfs mount {bucket} /tmp/bucket -o endpoint={url}{ca}"]
    lines += ["", "Ctrl-C ends it."]
    return "\n".join(lines)


# --------------------------------------------------------------------------------------------------

register(app)


# --------------------------------------------------------------------------------------------------
# Errors.


def _printable(text: str) -> str:
    return text if text.isprintable() else repr(text)


def _complain(line: str) -> None:
    from ossfs.logs import is_journal

    priority = "<3>" if is_journal(sys.stderr) else ""  # an error, as sd-daemon(3) has it
    print(f"{priority}ossfs: {line}", file=sys.stderr, flush=True)


def run(arguments: list[str] | None = None) -> int:
    """The exit status of `ossfs ARGUMENTS`."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments:
        app(args=["--help"], prog_name="ossfs", standalone_mode=False)
        return 2
    try:
        result = app(args=arguments, prog_name="ossfs", standalone_mode=False)
    except (UserError, BaseExceptionGroup) as caught:
        error = user_error_in(caught)
        if error is None:
            raise
        _complain(" ".join(str(error).split("\n")))
        return 1
    except typer.TyperException as misuse:
        message = " ".join(misuse.format_message().split())
        context = getattr(misuse, "ctx", None)
        command = context.command_path if context is not None else "ossfs"
        _complain(f"{message.rstrip('.')}; see {command} --help" if misuse.exit_code == 2 else message)
        return misuse.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return 130
    return result if isinstance(result, int) else 0


def main() -> NoReturn:
    """The entry point."""
    sys.exit(run())
