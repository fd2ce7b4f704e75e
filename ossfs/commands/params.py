"""What several commands take: SOURCE and -o.

No state.  typer reads these annotations when the command line is made.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

import typer

Source: TypeAlias = Annotated[
    str, typer.Argument(metavar="SOURCE", help="bucket, bucket:/prefix or oss://bucket/prefix")
]
Options: TypeAlias = Annotated[
    list[str] | None, typer.Option("-o", metavar="OPT[,OPT...]", help="as for mount")
]
