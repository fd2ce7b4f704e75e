"""The documents say what is true: promises have tests, options and commands are those of the program."""

from __future__ import annotations

import ast
import inspect
import re
import shutil
import subprocess
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer.main
from pydantic_core import PydanticUndefined

from ossfs import __version__, mount8
from ossfs.cli import app
from ossfs.config import MountConfig, option_names
from ossfs.values import format_size
from scripts import manpage

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
OPERATING = ROOT / "docs" / "operating.md"
DESIGN = ROOT / "docs" / "design.md"
SEMANTICS = ROOT / "docs" / "semantics.md"
SECURITY = ROOT / "docs" / "security.md"
DOCUMENTS = [README, ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]

PROMISE = re.compile(r"- `(?P<id>[a-z0-9-]+)`: (?P<text>.+)")
TEST = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


def names(path: Path) -> str:
    return str(path.relative_to(ROOT))


# --------------------------------------------------------------------------------------------------
# Which tests there are.


def names_of_tests(source: str, elsewhere: frozenset[str] = frozenset()) -> dict[str, str]:
    """The tests in a file, by name, and why each can show nothing ("" when it can).

    elsewhere: names of functions in other files that assert something for their callers.
    """
    module = ast.parse(source)
    marks = " ".join(
        ast.unparse(node.value)
        for node in module.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark"
    )
    helpers = asserting_functions(module) | elsewhere
    found: dict[str, str] = {}
    for node in module.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            text = " ".join([marks, *(ast.unparse(decorator) for decorator in node.decorator_list)])
            plain = [statement for statement in node.body if isinstance(statement, ast.Expr)]
            asserting, called = look_at(node)
            if node.name in found:
                found[node.name] = "there are two of that name, and one hides the other"
            elif re.search(r"\bxfail\b", text) or "xfail" in called:
                found[node.name] = "is expected to fail"
            elif re.search(r"\bmark\.skip\b", text) or any("skip" in look_at(part)[1] for part in plain):
                found[node.name] = "is skipped"
            elif re.search(r"parametrize\([^\[\]]*, (\[\]|\(\))", text):
                found[node.name] = "is run with no parameters"
            else:
                found[node.name] = "" if asserting or called & helpers else "has no assertion"
    return found


def look_at(part: ast.AST) -> tuple[bool, frozenset[str]]:
    """Does it assert something that is not constant, or expect an error; and the names that it calls."""
    asserting = False
    called = set()
    for node in ast.walk(part):
        if isinstance(node, ast.Assert):
            parts = ast.walk(node.test)
            asserting |= any(isinstance(one, ast.Name | ast.Call | ast.Attribute) for one in parts)
        elif isinstance(node, ast.Raise) and node.exc is not None:
            asserting |= ast.unparse(node.exc).startswith("AssertionError(")
        elif isinstance(node, ast.Call):
            called.add(
                node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            )
    return asserting or not called.isdisjoint({"raises", "RaisesExc", "warns"}), frozenset(called)


def asserting_functions(module: ast.Module) -> frozenset[str]:
    """The names of functions and methods here that assert, themselves or by others here."""
    looked_at = [
        (node.name, *look_at(node))
        for node in ast.walk(module)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("test_")
    ]
    found = frozenset(name for name, asserting, _ in looked_at if asserting)
    while True:
        more = found | {name for name, _, called in looked_at if called & found}
        if more == found:
            return found
        found = more


@cache
def helpers_in(path: Path) -> frozenset[str]:
    """The same of a file."""
    return asserting_functions(ast.parse(path.read_text())) if path.is_file() else frozenset()


@cache
def known(path: str) -> dict[str, str]:
    """The tests of a file that pytest collects in this repository; none when there is no such file."""
    file = ROOT / path
    if not (file.is_file() and file.name.startswith("test_") and path.startswith("tests/")):
        return {}
    source = file.read_text()
    elsewhere = helpers_in(file.parent / "conftest.py")
    for module in re.findall(r"^from (tests[\w.]*) import", source, re.MULTILINE):
        elsewhere |= helpers_in(ROOT / (module.replace(".", "/") + ".py"))
    return names_of_tests(source, elsewhere)


@pytest.mark.parametrize("document", DOCUMENTS, ids=names)
def test_tests_that_are_named_exist(document: Path) -> None:
    named = TEST.findall(document.read_text())
    missing = [f"{path}::{name}" for path, name in named if name not in known(path)]
    assert not missing


# --------------------------------------------------------------------------------------------------
# docs/semantics.md


def promises(text: str) -> dict[str, list[tuple[str, str]]]:
    """The tests of each promise, by its name.  ValueError for a name that is there twice."""
    found: dict[str, list[tuple[str, str]]] = {}
    lines = text.splitlines()
    for at, line in enumerate(lines):
        match = PROMISE.fullmatch(line)
        if match is None:
            continue
        if match["id"] in found:
            raise ValueError(f"promised twice: {match['id']}")
        following = lines[at + 1] if at + 1 < len(lines) else ""
        tests = TEST.findall(following) if following.startswith("  Tests: ") else []
        found[match["id"]] = tests
    return found


@pytest.mark.parametrize("page, least", [(SEMANTICS, 80), (SECURITY, 24)], ids=["semantics", "security"])
def test_every_promise_has_a_test_that_passes(page: Path, least: int) -> None:
    found = promises(page.read_text())
    assert len(found) > least, "the page's form has changed: the promises are not found any more"
    wrong = []
    for promise, tests in found.items():
        if not tests:
            wrong.append(f"{promise} has no test")
        for path, name in tests:
            why_not = known(path).get(name, "is not there")
            if why_not:
                wrong.append(f"{promise}: {path}::{name} {why_not}")
    assert not wrong


@pytest.mark.parametrize(
    "page, last",
    [(SEMANTICS, "Not promised yet"), (SECURITY, "What is not protected")],
    ids=["semantics", "security"],
)
def test_no_line_of_the_page_is_passed_over(page: Path, last: str) -> None:
    """A promise, or its tests, in another form would not be checked."""
    text, heading, _ = page.read_text().partition(f"\n## {last}\n")
    assert heading
    items = [line for line in text.splitlines() if line.startswith("- `")]
    tests = [line for line in text.splitlines() if "tests/" in line and "::" in line]
    found = promises(text)
    unread = [line for line in items if PROMISE.fullmatch(line) is None]
    assert not unread
    assert len(tests) == len(found)


def test_promises_that_are_named_elsewhere_exist() -> None:
    text = SEMANTICS.read_text()
    found = promises(text)
    named = re.findall(r"\((?:see )?`([a-z0-9-]+)`\)", text)
    assert named and set(named) <= set(found)


@pytest.mark.parametrize(
    "text, tests",
    [
        ("- `a`: b.\n  Tests: `tests/unit/test_x.py::test_y`.", [("tests/unit/test_x.py", "test_y")]),
        ("- `a`: b.\n", []),
        ("- `a`: b.", []),
        ("- `a`: b.\n\n  Tests: `tests/unit/test_x.py::test_y`.", []),
    ],
)
def test_a_promise_without_a_test_is_seen(text: str, tests: list[tuple[str, str]]) -> None:
    assert promises(text) == {"a": tests}


@pytest.mark.parametrize(
    "source, why_not",
    [
        ("def test_a():\n assert f()", ""),
        ("async def test_a():\n with pytest.raises(OSError): f()", ""),
        ("def helper():\n assert f()\ndef test_a():\n helper()", ""),
        ("def one():\n assert f()\ndef two():\n one()\ndef test_a():\n two()", ""),
        ("def test_a():\n x.elsewhere()", ""),
        ("@pytest.mark.skipif(f(), reason='')\ndef test_a():\n assert f()", ""),
        ("def test_a():\n if f(): pytest.skip('')\n assert f()", ""),
        ("def test_a(): ...", "has no assertion"),
        ("def test_a():\n assert True", "has no assertion"),
        ("def test_a():\n assert 1 == 1, f()", "has no assertion"),
        ("def helper():\n f()\ndef test_a():\n helper()", "has no assertion"),
        ("@pytest.mark.xfail(strict=True)\ndef test_a():\n assert f()", "is expected to fail"),
        ("pytestmark = [pytest.mark.xfail]\ndef test_a():\n assert f()", "is expected to fail"),
        ("def test_a():\n pytest.xfail('')\n assert f()", "is expected to fail"),
        (
            "@pytest.mark.parametrize('x', [pytest.param(1, marks=[pytest.mark.xfail])])\n"
            "def test_a(x):\n assert x",
            "is expected to fail",
        ),
        ("@pytest.mark.skip\ndef test_a():\n assert f()", "is skipped"),
        ("pytestmark = pytest.mark.skip('')\ndef test_a():\n assert f()", "is skipped"),
        ("def test_a():\n pytest.skip('')\n assert f()", "is skipped"),
        ("@pytest.mark.parametrize('x', [])\ndef test_a(x):\n assert x", "is run with no parameters"),
        (
            "def test_a():\n assert f()\ndef test_a():\n assert g()",
            "there are two of that name, and one hides the other",
        ),
    ],
)
def test_a_test_that_can_show_nothing_is_seen(source: str, why_not: str) -> None:
    assert names_of_tests(source, frozenset({"elsewhere"})) == {"test_a": why_not}


def test_what_pytest_does_not_collect_is_no_test() -> None:
    assert known("tests/unit/no_such_file.py") == {}
    assert known("tests/support/mounts.py") == {}
    assert (
        names_of_tests("class A:\n def test_a(self):\n  assert f()\nif x:\n def test_b():\n  assert f()")
        == {}
    )


# --------------------------------------------------------------------------------------------------
# docs/options.md, docs/operating.md and README.md


def spelt(name: str) -> str | None:
    """A default as the options table has it; None for what depends on the machine or follows from others."""
    value: Any = MountConfig.model_fields[name].default
    if value is None or value is PydanticUndefined:
        return None
    if isinstance(value, bool):
        return str(value).lower()
    if name in ("chunk_size", "cache_size", "writeback_size"):
        return format_size(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def test_the_table_of_options_is_that_of_the_program() -> None:
    rows = manpage.options_table(manpage.OPTIONS.read_text())
    assert all(meaning for *_, meaning in rows)
    assert sorted(option for option, *_ in rows) == option_names()
    for option, _, shown, _ in rows:
        default = spelt(option)
        if default is None:
            assert not re.fullmatch(r"`.*`", shown), f"{option} has no default of that form"
        else:
            assert shown == f"`{default}`", option


def refusal(option: str, value: str) -> str:
    """What the program says is accepted there; "" when it takes the value."""
    from ossfs.config import load_config
    from ossfs.errors import ConfigError

    try:
        load_config("bucket", "/m", ["endpoint=http://h", f"{option}={value}"])
    except ConfigError as error:
        return str(error).partition("accepted: ")[2]
    return ""


def taken(option: str) -> str:
    """What an option takes, as the table has it, by what the program says when it is wrong."""
    said = refusal(option, "?!")
    if said.startswith("true (which is AES256)"):
        return "`AES256`, `KMS`, `SM4`, yes or no"
    if said.startswith("true, yes, on"):
        return "yes or no"
    if said.startswith(("bytes", "seconds")):
        range_ = (refusal(option, "0") or refusal(option, "999999999")).partition(", as in")[0]
        return ("size, " if said.startswith("bytes") else "time, ") + range_
    if said.startswith("octal digits"):
        return "octal digits"
    if said.startswith("a whole number from "):
        return said.removeprefix("a whole number from ")
    if "a second" in said:
        return "speed, " + said.partition(", as in")[0]
    if said.startswith("the number or the name"):
        return "name or number"
    if said.startswith("a region id"):
        return "region id"
    if said.startswith("a number from "):
        return "number, " + said.removeprefix("a number from ").partition(", as in")[0]
    if said.startswith("HOST:PORT"):
        return "HOST:PORT"
    if said.startswith("a host or URL"):
        return "host or URL"
    if said and not said.startswith("the path"):
        return ", ".join(f"`{word}`" for word in said.split(", "))
    kinds = {"the path of": "path", "one line that": "text", "a path without": "prefix"}
    said = refusal(option, "a/../\0")
    return next((kind for words, kind in kinds.items() if said.startswith(words)), said)


@pytest.mark.parametrize("option", option_names())
def test_the_table_says_what_each_option_takes(option: str) -> None:
    rows = {name: takes for name, takes, _, _ in manpage.options_table(manpage.OPTIONS.read_text())}
    assert rows[option] == taken(option)


def test_options_that_are_used_exist() -> None:
    for document in DOCUMENTS:
        for options in re.findall(r"\s-o ([a-z_]+[a-z_=0-9,./:A-Z-]*)", document.read_text()):
            for option in options.split(","):
                assert option.partition("=")[0] in option_names(), f"{names(document)}: -o {option}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=names)
def test_commands_that_are_named_exist(document: Path) -> None:
    commands = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    text = document.read_text()
    in_code = re.findall(r"`([^`\n]+)`", text) + re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    for code in in_code:
        for command in re.findall(r"(?:^|(?<! -t)[\s/])ossfs ([a-z][a-z-]*)", re.sub(r"#.*", "", code)):
            assert command in commands, f"{names(document)}: ossfs {command}"


def test_every_command_is_described() -> None:
    text = OPERATING.read_text()
    for command in typer.main.get_command(app).commands:  # type: ignore[attr-defined]
        assert f"`ossfs {command}" in text


@pytest.mark.parametrize("document", DOCUMENTS, ids=names)
def test_make_targets_exist(document: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    code = re.findall(r"`make ([a-z]+)|^make ([a-z]+)", document.read_text(), re.MULTILINE)
    for target in ("".join(found) for found in code):
        assert target in targets, f"{names(document)}: make {target}"


def test_the_first_command_brings_what_the_others_need() -> None:
    commands = re.search(r"```sh\n(.*?)\n", README.read_text())
    assert commands is not None
    assert commands[1] == "apt-get install -y git make"


# --------------------------------------------------------------------------------------------------
# All of them


@pytest.mark.parametrize("document", DOCUMENTS, ids=names)
def test_relative_links_resolve(document: Path) -> None:
    text = re.sub(r"```.*?```", "", document.read_text(), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        assert target.exists(), f"{names(document)}: {link}"
        if anchor:
            assert anchor in anchors(target), f"{names(document)}: {link}"


def anchors(document: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def test_modules_that_are_named_exist() -> None:
    text = DESIGN.read_text()
    named = re.findall(r"`([\w/]+\.py)`", text)
    assert len(set(named)) > 30
    for module in named:
        assert (ROOT / "ossfs" / module).is_file() or (ROOT / module).is_file(), module


def test_every_dependency_is_justified() -> None:
    text = DESIGN.read_text().split("## Dependencies", 1)[1]
    with open(ROOT / "pyproject.toml", "rb") as file:
        dependencies = tomllib.load(file)["project"]["dependencies"]
    for dependency in dependencies:
        name = re.split(r"[<>=!~\[]", dependency)[0]
        assert f"`{name}`" in text, name


def test_the_version_is_written_in_one_place() -> None:
    for name in ("pyproject.toml", "README.md", "Makefile"):
        assert __version__ not in (ROOT / name).read_text(), name
    heading = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert heading is not None and heading[1] == __version__


# --------------------------------------------------------------------------------------------------
# man/


PAGES = sorted((ROOT / "man").glob("*.8"))


def test_the_manual_is_that_of_the_program() -> None:
    assert manpage.PAGE.read_text() == manpage.page(), "run: make man (python -m scripts.manpage)"


def test_every_command_and_option_is_in_the_manual() -> None:
    """Whatever wrote it."""
    manual = manpage.PAGE.read_text().replace(r"\-", "-")
    _, commands, options, _ = re.split(r"^\.Sh (?:COMMANDS|OPTIONS|ENVIRONMENT)$", manual, flags=re.MULTILINE)
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        found = re.search(rf"^\.It Cm {name}\b(.*)$", commands, re.MULTILINE)
        assert found, name
        for parameter in command.params:
            for option in parameter.opts if parameter.param_type_name == "option" else ():
                shown = re.sub(r"Fl Fl (?=\S)", "--", found[1]).replace("Fl ", "-")
                assert f"Oo {option} " in shown, f"{name} {option}"
    for option in option_names():
        assert re.search(rf"^\.It Cm {option}$", options, re.MULTILINE), option


def test_the_manual_of_the_helpers_has_their_options_and_statuses() -> None:
    manual = (ROOT / "man" / "mount.ossfs.8").read_text()
    usages = " ".join(re.findall(r'usage=f"([^"]+)"', inspect.getsource(mount8)))
    letters = {letter for group in re.findall(r"\[-([A-Za-z]+)", usages) for letter in group}
    letters |= set(re.findall(r'add_argument\(\s*"-([A-Za-z])"', inspect.getsource(mount8)))
    assert len(letters) > 7
    named = set(re.findall(r"^\.It Fl ([A-Za-z])\b", manual, re.MULTILINE))
    assert named == letters
    statuses = [value for name, value in vars(mount8).items() if name.isupper() and type(value) is int]
    assert [int(number) for number in re.findall(r"^\.It (\d+)$", manual, re.MULTILINE)] == sorted(statuses)
    for helper in mount8.HELPERS:
        assert f".Nm {helper}" in manual


@pytest.mark.parametrize("page", PAGES, ids=names)
def test_the_manual_is_well_formed(page: Path) -> None:
    commands = {"man": ["--warnings", "-E", "UTF-8", "-l"], "mandoc": ["-Tlint", "-Wwarning"]}
    for command, options in commands.items():
        if shutil.which(command):
            done = subprocess.run(
                [command, *options, str(page)], capture_output=True, text=True, timeout=30, check=False
            )
            said = done.stderr if command == "man" else done.stdout + done.stderr
            assert not said


@pytest.mark.parametrize(
    "words, line",
    [
        (".hidden files", r"\&.hidden files"),
        ("a `--dry-run` of it", r"a \fB\-\-dry\-run\fP of it"),
        ("with -o or a well-known name", r"with \-o or a well-known name"),
        ("a back\\slash", r"a back\eslash"),
        ("the keys: see [credentials](#credentials)", "the keys"),
        ("[a page](docs/x.md) has it", "a page has it"),
    ],
)
def test_text_becomes_lines_of_the_manual(words: str, line: str) -> None:
    assert manpage.text(words) == line


# --------------------------------------------------------------------------------------------------
# Dockerfile


def test_what_the_image_is_built_from_is_sent_to_the_builder() -> None:
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    sources = {source for line in copied for source in line.split()}
    sent = re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    assert sources == set(sent)
    assert all((ROOT / source).exists() for source in sources)
    # Whatever the packages are made of.
    with open(ROOT / "pyproject.toml", "rb") as file:
        data = tomllib.load(file)["tool"]["setuptools"]["data-files"]
    needed = {pattern.partition("/")[0] for patterns in data.values() for pattern in patterns}
    assert needed | {"ossfs", "pyproject.toml", "MANIFEST.in"} <= sources


# --------------------------------------------------------------------------------------------------
# docs/troubleshooting.md

TROUBLESHOOTING = ROOT / "docs" / "troubleshooting.md"


def kinds_below(kind: type[Exception]) -> list[type[Exception]]:
    """*kind* and all classes derived from it, of the product's."""
    found = [kind]
    for one in found:
        found += [below for below in one.__subclasses__() if below.__module__.startswith("ossfs.")]
    return found


def literal(node: ast.AST) -> str:
    """The text of a message in the source, with … for what differs."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(literal(part) for part in node.values)
    if isinstance(node, ast.BinOp):
        return literal(node.left) + literal(node.right)
    return "…"


def messages() -> dict[str, str]:
    """Each message for the person at the command line, and the file that it is in."""
    import ossfs.commands.url  # all modules with classes of such errors are imported
    import ossfs.control
    import ossfs.store.chain  # noqa: F401
    from ossfs.errors import NoCredentials, UserError

    names_of_kinds = {kind.__name__ for kind in kinds_below(UserError)} - {NoCredentials.__name__}
    found: dict[str, str] = {}
    for file in sorted((ROOT / "ossfs").rglob("*.py")):
        if "server" in file.parts:
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args:
                text = literal(node.args[0])
                if node.func.id in names_of_kinds and text.strip("… "):
                    found[text] = names(file)
    return found


def quoted_messages() -> list[str]:
    tables = re.findall(
        r"\| message \| cause \| cure \|\n\| [-| ]+\n((?:\|.*\n)+)", TROUBLESHOOTING.read_text()
    )
    rows = [re.match(r"\| `([^`]+)` \|(.*)\|(.*)\|", row) for table in tables for row in table.splitlines()]
    assert len(tables) > 4 and all(row is not None and (row[2] + row[3]).strip() for row in rows)
    return [row[1] for row in rows if row is not None]


def says(quoted: str, message: str) -> bool:
    """Is *quoted*, as the page has it, (the beginning of) *message*?"""
    return re.match(".*".join(re.escape(piece) for piece in quoted.split("…")), message) is not None


def preflight_lines() -> list[str]:
    from ossfs.errors import StoreError
    from ossfs.preflight import reason

    config = MountConfig(bucket="bucket", mountpoint="/m", region="cn-x")  # type: ignore[call-arg]
    anonymous = config.model_copy(update={"credentials": "anonymous"})
    return [
        *(reason(kind(), config) for kind in kinds_below(StoreError)),  # type: ignore[arg-type]
        *(reason(kind(), anonymous) for kind in kinds_below(StoreError)),  # type: ignore[arg-type]
    ]


def test_every_message_has_its_cause_and_cure() -> None:
    quoted = quoted_messages()
    told = messages()
    assert len(told) > 90, "the form of the sources has changed: messages are not found any more"
    unheard = {text: file for text, file in told.items() if not any(says(one, text) for one in quoted)}
    assert not unheard, f"docs/troubleshooting.md has no row for: {unheard}"


def test_every_line_of_the_preflight_has_its_cause_and_cure() -> None:
    quoted = quoted_messages()
    for line in preflight_lines():
        assert any(says(one, line) for one in quoted if one.strip("… ")), line


def test_what_the_page_quotes_is_said() -> None:
    said = [*messages(), *preflight_lines(), "no credentials: what; looked at: that"]
    said += [text.removeprefix("cannot mount …: ") for text in said]
    for quoted in quoted_messages():
        assert any(says(quoted, text) for text in said), f"no message says: {quoted}"


def test_every_error_of_the_service_is_explained() -> None:
    import errno

    from ossfs.errors import StoreError

    rows = re.findall(
        r"^\| (\w+) \| (E[A-Z0-9]+) \| (.+) \| .*\|$", TROUBLESHOOTING.read_text(), re.MULTILINE
    )
    named = {name: (code, cause) for name, code, cause in rows}
    kinds = [kind for kind in kinds_below(StoreError) if not kind.__name__.startswith("_")]
    from ossfs.store.connection import Closed  # becomes ConnectionLost before anybody sees it

    assert set(named) == {kind.__name__ for kind in kinds} - {Closed.__name__}
    for kind in kinds:
        if kind is not Closed:
            assert named[kind.__name__][0] == errno.errorcode[kind.errno], kind  # type: ignore[attr-defined]
