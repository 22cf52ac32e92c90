"""Pickles read by an interpreter of our own: its opcodes. `_pickle_machine.py` says what it does, and does not."""

import struct
from collections.abc import Callable
from typing import Any

from ._pickle_machine import Machine
from .errors import FileFormatError

__all__ = ["Unpickler"]


class Unpickler(Machine):
    """Reads pickles from a file's bytes; the arguments are Machine's."""

    def load(self, start: int) -> tuple[Any, int]:
        """The object of the pickle that starts there, and where the pickle ends."""
        self.pos = start
        self.stack, self.marks, self.memo = [], [], []
        budget, data, ops, end = self.budget, self.data, _OPS, len(self.data)
        try:
            while self.pos < end:
                at = self.pos
                code = data[at]
                self.pos = at + 1
                if code == _STOP:
                    if len(self.stack) != 1 or self.marks:
                        raise ValueError("it does not end with one object")
                    return self.stack.pop(), self.pos
                op, cost = ops[code]
                budget.left -= cost
                if budget.left < 0:
                    budget.spend(0)
                op(self)
        except FileFormatError:
            raise
        # The bytes can be anything: an empty stack, a number where a list is expected, text that is no UTF-8.
        except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError, struct.error) as error:
            raise FileFormatError(
                f"{self.path!r} is damaged: its pickle cannot be read at byte {self.pos} ({error})"
            ) from error
        raise FileFormatError(f"{self.path!r} is cut off: its pickle does not end")


def _pushed(form: str) -> Callable[[Machine], None]:
    """Push the number that follows: most of a pickle, and `Machine.number` takes twice the time."""
    layout = struct.Struct(form)

    def op(u: Machine) -> None:
        u.stack.extend(layout.unpack_from(u.data, u.pos))
        u.pos += layout.size

    return op


def _remember_short(u: Machine) -> None:
    u.remember(u.data[u.pos])
    u.pos += 1


def _recall_short(u: Machine) -> None:
    u.recall(u.data[u.pos])
    u.pos += 1


def _constant(value: Any) -> Callable[[Machine], None]:
    return lambda u: u.stack.append(value)


def _long(data: memoryview) -> int:
    return int.from_bytes(data, "little", signed=True)


def _text(u: Machine, size: int) -> None:
    u.push_sized(str(u.take(size), "utf-8", "surrogatepass"))


def _string(u: Machine, size: int) -> None:
    # Python 2 has one type for text and bytes.
    raw = bytes(u.take(size))
    try:
        u.push_sized(raw.decode())
    except UnicodeDecodeError:
        u.push_sized(raw)


def _tuple(u: Machine, size: int) -> None:
    if len(u.stack) - (u.marks[-1] if u.marks else 0) < size:
        raise ValueError("a tuple of more than there is")
    items = tuple(u.stack[-size:])
    del u.stack[-size:]
    u.stack.append(items)


def _marked_tuple(u: Machine) -> None:
    u.push_sized(tuple(u.since_mark()))


def _marked_list(u: Machine) -> None:
    u.push_sized(u.since_mark())


def _marked_dict(u: Machine) -> None:
    items = u.since_mark()
    u.stack.append({})
    u.set_items(items)


def _marked_frozenset(u: Machine) -> None:
    u.push_sized(frozenset(u.elements(u.since_mark())))


def _integer_line(u: Machine) -> None:
    text = u.line()
    u.push_sized({"00": False, "01": True}[text] if text in ("00", "01") else int(text))


def _protocol(u: Machine) -> None:
    if u.number("<B") > 5:
        raise ValueError("a protocol of pickle that does not exist")


def _set_item(u: Machine) -> None:
    value, key = u.pop(), u.pop()
    u.set_items([key, value])


def _append(u: Machine) -> None:
    item = u.pop()
    u.append_items([item])


def _global(u: Machine) -> None:
    module = u.line()
    u.find(module, u.line())


def _stack_global(u: Machine) -> None:
    name, module = u.pop(), u.pop()
    if type(name) is not str or type(module) is not str or len(name) + len(module) > 1000:
        raise ValueError("a name that is no text")
    u.find(module, name)


def _frame(u: Machine) -> None:
    if u.number("<Q") > len(u.data) - u.pos:
        raise FileFormatError(f"{u.path!r} is cut off: a frame of its pickle is longer than the file")


def _no(name: str, why: str) -> Callable[[Machine], None]:
    return lambda u: u.refuse(f"its pickle has the opcode {name}, {why}")


def _unknown(u: Machine) -> None:
    raise ValueError(f"no opcode {u.data[u.pos - 1]:#04x}, or one that torch does not write")


_STOP = ord(".")
_BY_NAME = "which calls a name"
_ELSEWHERE = "for an object that is not in the file"
_PRESENT = (_unknown, 0)
_OPS: list[tuple[Callable[[Machine], None], int]] = [_PRESENT] * 256
# code: what it does, and the bytes that it takes besides what `push_sized` counts
for _code, _op, _cost in [
    (b"N", _constant(None), 16),
    (b"\x88", _constant(True), 16),
    (b"\x89", _constant(False), 16),
    (b")", _constant(()), 16),
    (b"]", lambda u: u.push([]), 90),
    (b"}", lambda u: u.push({}), 100),
    (b"\x8f", lambda u: u.push(set()), 250),
    (b"K", _pushed("<B"), 16),
    (b"M", _pushed("<H"), 44),
    (b"J", _pushed("<i"), 44),
    (b"G", _pushed(">d"), 40),
    (b"I", _integer_line, 16),
    (b"L", lambda u: u.push_sized(int(u.line().removesuffix("L"))), 16),
    (b"\x8a", lambda u: u.push_sized(_long(u.take(u.number("<B")))), 16),
    (b"\x8b", lambda u: u.push_sized(_long(u.take(u.number("<i")))), 16),
    (b"X", lambda u: _text(u, u.number("<I")), 16),
    (b"\x8c", lambda u: _text(u, u.number("<B")), 16),
    (b"\x8d", lambda u: _text(u, u.number("<Q")), 16),
    (b"U", lambda u: _string(u, u.number("<B")), 16),
    (b"T", lambda u: _string(u, u.number("<i")), 16),
    (b"C", lambda u: u.push_sized(bytes(u.take(u.number("<B")))), 16),
    (b"B", lambda u: u.push_sized(bytes(u.take(u.number("<I")))), 16),
    (b"\x8e", lambda u: u.push_sized(bytes(u.take(u.number("<Q")))), 16),
    (b"\x96", lambda u: u.push_sized(bytearray(u.take(u.number("<Q")))), 16),
    (b"(", lambda u: u.marks.append(len(u.stack)), 44),
    (b"\x85", lambda u: _tuple(u, 1), 72),
    (b"\x86", lambda u: _tuple(u, 2), 80),
    (b"\x87", lambda u: _tuple(u, 3), 88),
    (b"t", _marked_tuple, 24),
    (b"l", _marked_list, 24),
    (b"d", _marked_dict, 100),
    (b"\x91", _marked_frozenset, 24),
    (b"a", _append, 16),
    (b"e", lambda u: u.append_items(u.since_mark()), 0),
    (b"s", _set_item, 0),
    (b"u", lambda u: u.set_items(u.since_mark()), 0),
    (b"\x90", lambda u: u.add_items(u.since_mark()), 0),
    (b"q", _remember_short, 9),
    (b"r", lambda u: u.remember(u.number("<I")), 9),
    (b"p", lambda u: u.remember(int(u.line())), 9),
    (b"\x94", lambda u: u.remember(len(u.memo)), 9),
    (b"h", _recall_short, 16),
    (b"j", lambda u: u.recall(u.number("<I")), 16),
    (b"g", lambda u: u.recall(int(u.line())), 16),
    (b"0", lambda u: u.pop(), 0),
    (b"1", lambda u: u.since_mark(), 0),
    (b"2", lambda u: u.push(u.stack[-1]), 16),
    (b"c", _global, 16),
    (b"\x93", _stack_global, 16),
    (b"R", lambda u: u.call(), 16),
    (b"\x81", lambda u: u.call(), 16),
    (b"b", lambda u: u.set_state(), 0),
    (b"Q", lambda u: u.push(u.persistent(u.pop())), 16),
    (b"\x80", _protocol, 0),
    (b"\x95", _frame, 0),
    (b"i", _no("INST", _BY_NAME), 0),
    (b"o", _no("OBJ", _BY_NAME), 0),
    (b"\x92", _no("NEWOBJ_EX", _BY_NAME), 0),
    (b"\x82", _no("EXT1", _BY_NAME), 0),
    (b"\x83", _no("EXT2", _BY_NAME), 0),
    (b"\x84", _no("EXT4", _BY_NAME), 0),
    (b"P", _no("PERSID", _ELSEWHERE), 0),
    (b"\x97", _no("NEXT_BUFFER", _ELSEWHERE), 0),
    (b"\x98", _no("READONLY_BUFFER", _ELSEWHERE), 0),
]:
    _OPS[_code[0]] = (_op, _cost)
