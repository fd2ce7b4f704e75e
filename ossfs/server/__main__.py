"""`python -m ossfs.server DIR`: the embedded server by itself, until SIGTERM or SIGINT."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ossfs.server import ServerConfig, ServerError, serve


def _ready(url: str, access_key_id: str, access_key_secret: str) -> None:
    print(f"listening on {url}")
    print(f"access key id: {access_key_id}")
    print(f"access key secret: {access_key_secret}", flush=True)


def main(arguments: list[str] | None = None) -> int:
    """The command line; the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m ossfs.server", description="An OSS service in a directory"
    )
    parser.add_argument("directory", type=Path)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--bucket", action="append", default=[], help="make this bucket; may be repeated")
    parser.add_argument("--region", default="cn-hangzhou")
    parser.add_argument("--cert", type=Path)
    parser.add_argument("--key", type=Path)
    parser.add_argument("--control", action="store_true", help="faults and counters under /_ossfs/, unsigned")
    parsed = parser.parse_args(arguments)
    config = ServerConfig(
        parsed.directory,
        parsed.host,
        parsed.port,
        tuple(parsed.bucket),
        region=parsed.region,
        cert=parsed.cert,
        key=parsed.key,
        control=parsed.control,
    )
    try:
        serve(config, on_ready=_ready)
    except ServerError as error:
        print(f"ossfs.server: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
