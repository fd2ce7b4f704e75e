"""XML out and in, for the small documents of this protocol. Stateless: safe in every thread.

Answers are written as text, without a namespace: clients of the native interface look elements up
un-namespaced. Requests are parsed with expat and any DOCTYPE is refused at its first character, so that
neither entity expansion nor external entities can ever begin.
"""

from __future__ import annotations

import re
from xml.parsers import expat

HEAD = '<?xml version="1.0" encoding="UTF-8"?>\n'
_SPECIAL = re.compile("[&<>\x00-\x1f\x7f\ufffe\uffff\ud800-\udfff]")
_IMPOSSIBLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff\ud800-\udfff]")
_MAX_DEPTH = 16


def _reference(match: re.Match[str]) -> str:
    char = match.group()
    named = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}.get(char)
    # Control characters become references. XML 1.0 cannot carry most of them in any form, which is why
    # clients ask for encoding-type=url; at least the document says which character was meant.
    return named if named is not None else f"&#{ord(char)};"


def escape(text: str) -> str:
    """`text` as element content."""
    return _SPECIAL.sub(_reference, text)


def escape_lossy(text: str) -> str:
    """The same, but always well-formed: what XML can't carry becomes U+FFFD."""
    return escape(_IMPOSSIBLE.sub("\ufffd", text))


def element(name: str, text: str | int) -> str:
    """`<name>text</name>`, escaped."""
    return f"<{name}>{escape(str(text))}</{name}>"


class XmlError(ValueError):
    """Not well-formed, or with a DOCTYPE."""


class Node:
    """An element: name without namespace prefix, text, children in order."""

    __slots__ = ("children", "name", "text")

    def __init__(self, name: str) -> None:
        self.name = name
        self.text = ""
        self.children: list[Node] = []

    def find(self, name: str) -> Node | None:
        """The first child of that name."""
        for child in self.children:
            if child.name == name:
                return child
        return None

    def findall(self, name: str) -> list[Node]:
        """All children of that name."""
        return [child for child in self.children if child.name == name]

    def value(self, name: str) -> str | None:
        """The text of the first child of that name."""
        child = self.find(name)
        return None if child is None else child.text


def parse(data: bytes) -> Node:
    """The root element; XmlError for anything else."""
    root = Node("")
    stack = [root]
    parser = expat.ParserCreate()
    parser.buffer_text = True

    def start(name: str, _attributes: dict[str, str]) -> None:
        if len(stack) > _MAX_DEPTH:
            raise XmlError("nested too deeply")
        node = Node(name.rpartition(":")[2])
        stack[-1].children.append(node)
        stack.append(node)

    def end(_name: str) -> None:
        stack.pop()

    def text(data: str) -> None:
        stack[-1].text += data

    def doctype(*_args: object) -> None:
        raise XmlError("a DOCTYPE is not accepted")

    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = text
    parser.StartDoctypeDeclHandler = doctype
    try:
        parser.Parse(data, True)
    except (expat.ExpatError, LookupError, ValueError) as error:
        # LookupError: an encoding that nobody knows.
        raise XmlError(str(error)) from error
    return root.children[0]
