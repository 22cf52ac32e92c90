"""The machine that a pickle's opcodes run on. It builds numbers, text and containers, and can call nothing else.

Python's own unpickler imports whatever a file names. This one has no import: a name in the file is looked up in the
table that the caller gives (*known* names), and one that is not there ends the reading. The table's functions only put
data together.

*Budget*: the bytes of memory that reading one file may take, `2 * size + 256 MiB`. Every opcode is charged with what it
makes, so that a small file cannot ask for much: opcodes of one byte make objects of a hundred.
"""

import struct
import sys
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from .errors import FileFormatError

__all__ = ["Budget", "Known", "Machine", "hashable"]

_SLACK = 256 << 20
_KEY_PARTS = 64  # Python hashes nested tuples by recursion in C, without a limit
_CONTAINERS = (dict, OrderedDict, defaultdict, Counter)
_PLAIN_KEYS = (str, bytes, int, float, bool, complex, type(None))
_NOTHING = object()


class Budget:
    """How much memory reading a file may still take.

    Args:
        path: the file's name.
        size: its length.
    """

    def __init__(self, path: str, size: int) -> None:
        self.path = path
        self.total = self.left = 2 * size + _SLACK

    def spend(self, cost: int) -> None:
        """Take `cost` bytes."""
        self.left -= cost
        if self.left < 0:
            raise FileFormatError(
                f"{self.path!r} is refused: what it describes takes more than {self.total >> 20} MiB of memory, twice "
                f"its size and {_SLACK >> 20} MiB. Tensors expanded from few numbers, or millions of Python objects, "
                "do not belong in a file of tensors: save what they are made of."
            )


class Known:
    """A name that a pickle may use.

    Args:
        name: with its module.
        make: what calling it gives, None if it cannot be called.
        refused: why a file that uses it cannot be read, None if it can.
    """

    __slots__ = ("make", "name", "refused")

    def __init__(self, name: str, make: Callable[..., Any] | None = None, refused: str | None = None) -> None:
        self.name = name
        self.make = make
        self.refused = refused


def hashable(value: Any) -> bool:
    """May it be a key or an element of a set? Text, numbers, and small tuples of those."""
    todo, seen = [value], 0
    while todo:
        item = todo.pop()
        seen += 1
        if seen > _KEY_PARTS:
            return False
        if type(item) is tuple:
            todo.extend(item[:_KEY_PARTS])
        elif type(item) not in _PLAIN_KEYS:
            return False
    return True


def _kind(value: Any) -> str:
    """What to call a value in an error. Never its text: that can be endless."""
    return value.name if isinstance(value, Known) else type(value).__name__


class Machine:
    """What the opcodes of a pickle work on: the bytes, a stack with marks, and a memo.

    Args:
        data: the bytes.
        path: the file's name, for errors.
        names: what the pickle may name, by "module.name".
        persistent: gives the object of a persistent id.
        build: sets the state of an object that is neither a dict nor known here; gives False where it cannot.
        budget: the memory that may be used.
    """

    def __init__(
        self,
        data: memoryview,
        path: str,
        names: Mapping[str, Any],
        persistent: Callable[[Any], Any],
        build: Callable[[Any, Any], bool],
        budget: Budget,
    ) -> None:
        self.data = data
        self.path = path
        self.names = names
        self.persistent = persistent
        self.build = build
        self.budget = budget
        self.pos = 0
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: list[Any] = []

    def refuse(self, why: str) -> NoReturn:
        raise FileFormatError(f"{self.path!r} is refused: {why}")

    # -- the bytes --

    def take(self, count: int) -> memoryview:
        """The next `count` bytes."""
        start = self.pos
        if not 0 <= count <= len(self.data) - start:
            raise FileFormatError(f"{self.path!r} is cut off: its pickle goes on for {count} bytes that are not there")
        self.pos = start + count
        return self.data[start : start + count]

    def number(self, form: str) -> int:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def line(self) -> str:
        end = self.pos
        limit = min(len(self.data), end + 1000)
        while end < limit and self.data[end] != 10:
            end += 1
        text = str(self.take(end - self.pos), "utf-8")
        self.take(1)
        return text

    # -- the stack --

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def push_sized(self, value: Any) -> None:
        self.budget.spend(sys.getsizeof(value))
        self.stack.append(value)

    def since_mark(self) -> list[Any]:
        mark = self.marks.pop()
        if mark > len(self.stack):
            raise ValueError("a mark above the stack's end")
        items = self.stack[mark:]
        del self.stack[mark:]
        return items

    def pop(self) -> Any:
        if self.marks and self.marks[-1] >= len(self.stack):
            raise ValueError("nothing above the mark")
        return self.stack.pop()

    def remember(self, index: int) -> None:
        # Picklers count up from 0; Python 2's from 1.
        if index == 1 and not self.memo:
            self.memo.append(_NOTHING)
        if index == len(self.memo):
            self.memo.append(self.stack[-1])
        elif 0 <= index < len(self.memo):
            self.memo[index] = self.stack[-1]
        else:
            raise ValueError(f"memo entry {index} after {len(self.memo)}")

    def recall(self, index: int) -> None:
        if not 0 <= index < len(self.memo) or self.memo[index] is _NOTHING:
            raise ValueError(f"no memo entry {index}")
        self.stack.append(self.memo[index])

    # -- containers --

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) not in _CONTAINERS or len(items) % 2:
            raise ValueError(f"items for a {_kind(target)}")
        self.budget.spend(len(items) * (100 if type(target) is OrderedDict else 55))
        for i in range(0, len(items), 2):
            if not hashable(items[i]):
                self.refuse(f"a {_kind(items[i])} is a key in it; keys are text, numbers and small tuples of them")
            target[items[i]] = items[i + 1]

    def append_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not list:
            raise ValueError(f"items for a {_kind(target)}")
        target.extend(items)

    def add_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not set:
            raise ValueError(f"elements for a {_kind(target)}")
        target.update(self.elements(items))

    def elements(self, items: list[Any]) -> list[Any]:
        self.budget.spend(len(items) * 70)
        for item in items:
            if not hashable(item):
                self.refuse(f"a {_kind(item)} is in a set; sets have text, numbers and small tuples of them")
        return items

    # -- names and calls --

    def find(self, module: str, name: str) -> None:
        full = f"{module}.{name}"
        found = self.names.get(full)
        if found is None:
            self.refuse(
                f"{full!r} is needed for it, which is no plain data, and nothing of the file was run. Tensors, "
                "numbers, text and containers can be read: save those, `torch.save(model.state_dict(), path)` rather "
                "than the model. Where you trust a file, load it with torch and save what you need of it."
            )
        if isinstance(found, Known) and found.refused is not None:
            self.refuse(f"{full!r} is needed for it: {found.refused}")
        self.stack.append(found)

    def call(self) -> None:
        args, function = self.pop(), self.pop()
        if not isinstance(function, Known) or function.make is None:
            self.refuse(f"it calls a {_kind(function)}, which is not among the functions that put data together")
        if type(args) is not tuple:
            raise ValueError(f"arguments that are a {_kind(args)}")
        self.stack.append(function.make(*args))

    def set_state(self) -> None:
        state, target = self.pop(), self.stack[-1]
        if type(target) is OrderedDict:
            # A method under a name of data would be called as such later.
            if type(state) is not dict or not all(type(k) is str and not hasattr(OrderedDict, k) for k in state):
                raise ValueError("the state of an OrderedDict")
            target.__dict__.update(state)
        elif not self.build(target, state):
            self.refuse(f"it sets the state of a {_kind(target)}, which has none")
