"""The state of a pickle being read. What each opcode does to it stands in values.py and objects.py; parse.py has the loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

from ckptdoctor.limits import LONGEST_NAME, MOST_GLOBALS
from ckptdoctor.pickles.nodes import CallNode, GlobalName, GlobalNode, Node, PersistentNode


class PickleError(ValueError):
    """The stream breaks the rules of pickle, or of what torch writes into one."""


class Machine:
    """The state of a run: the stack since the last mark, the stacks below it, the memo."""

    __slots__ = (
        *(
            "calls",
            "data",
            "discards",
            "globals",
            "marks",
            "memo",
            "named",
            "persistent",
            "protocol",
            "running",
            "stack",
        ),
    )

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.stack: list[Node] = []
        self.marks: list[list[Node]] = []
        self.memo: dict[int, Node] = {}
        self.globals: dict[str, GlobalName] = {}
        self.named: dict[tuple[str, str], GlobalNode] = {}
        self.calls: list[CallNode] = []
        self.persistent: list[PersistentNode] = []
        self.protocol = 0
        self.discards = False
        self.running = True

    def complaint(self, error: Exception, at: int) -> str:
        """What to say of an error in the opcode at this position."""
        if at >= len(self.data):
            return f"the pickle ends early, at byte {at:,}"
        if isinstance(error, PickleError):
            return f"{error} (byte {at:,})"
        return f"malformed pickle at byte {at:,} (opcode 0x{self.data[at]:02x})"

    def line(self, start: int) -> tuple[bytes, int]:
        """The text up to the next newline, and the position behind it."""
        end = self.data.find(b"\n", start)
        if end < 0:
            raise PickleError("the pickle ends early")
        return self.data[start:end], end + 1

    def since_mark(self) -> list[Node]:
        """Everything pushed since the last mark, which is taken off."""
        items, self.stack = self.stack, self.marks.pop()
        return items

    def call(self, node: CallNode) -> CallNode:
        """A call that a real unpickler would make; remembered."""
        self.calls.append(node)
        return node

    def name(self, module: str, name: str, at: int) -> GlobalNode:
        """The node for a global that is named at byte `at`, one for all the times that it is named."""
        node = self.named.get((module, name))
        if node is None:
            if len(module) + len(name) > LONGEST_NAME:
                fail("a global whose name is too long")
            node = self.named[module, name] = GlobalNode(module, name)
            self.note(GlobalName(module, name, at))
        return node

    def note(self, name: GlobalName) -> None:
        """Remember a name for the list of what the stream names."""
        self.globals.setdefault(name.path, name)
        if len(self.globals) > MOST_GLOBALS:
            fail(f"it names more than {MOST_GLOBALS:,} different globals")


Handler = Callable[[Machine, int], int]


def fail(message: str) -> NoReturn:
    raise PickleError(message)
