"""`ossfs config SOURCE`: what is in force, and where each value comes from.

Threading: the main thread of a command.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ossfs.commands.output import print_json, print_table, printable
from ossfs.commands.params import Options, Source

if TYPE_CHECKING:
    from ossfs.config import MountConfig


def show_config(
    source: Source,
    options: Options = None,
    as_json: Annotated[bool, typer.Option("--json", help="as JSON")] = False,
) -> int:
    """Show the options that are in force, and where each comes from: -o, environment, file, or default.

    Nothing is asked of the service.  Secrets are no options, and a command that prints them is shown without
    its arguments.
    """
    from ossfs.config import load_config

    config = load_config(source, "/", options or [])
    rows = in_force(config)
    if as_json:
        shown = {name: {"value": value, "origin": origin} for name, value, origin in rows}
        print_json({"source": config.source, "endpoint_url": config.endpoint_url, "options": shown})
        return 0
    print(f"{config.source} at {config.endpoint_url}")
    print_table(
        ("option", "value", "origin"), [(name, text_of(value), origin) for name, value, origin in rows]
    )
    return 0


def in_force(config: MountConfig) -> list[tuple[str, object, str]]:
    """Name, value and origin of each option, by name."""
    from ossfs.config import option_names

    values = config.to_dict()
    if config.root_directory is None and config.prefix:
        values["root_directory"] = config.prefix
    command = config.credential_process
    if command is not None and len(command.split()) > 1:
        values["credential_process"] = f"{command.split()[0]} ***"
    origins = config.origins
    return [
        (name, values[name], origins.get(name) or _default_origin(config, name)) for name in option_names()
    ]


def _default_origin(config: MountConfig, name: str) -> str:
    return "SOURCE" if name == "root_directory" and config.prefix else "default"


def text_of(value: object) -> str:
    """A value as a config file would have it, "-" for none."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    return printable(str(value))
