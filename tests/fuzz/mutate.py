"""How files are altered. Everything follows from one random generator."""

import io
import warnings
import zipfile
from collections.abc import Callable, Sequence
from random import Random

_NUMBERS = [
    0,
    1,
    2,
    7,
    8,
    0x7F,
    0x80,
    0xFF,
    0x100,
    0x7FFF,
    0xFFFF,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**62,
    2**63,
    2**64 - 1,
]
_PIECES = [
    *(b"cos\nsystem\n", b"cbuiltins\neval\n", b"\x8c\x02os\x8c\x06system\x93", b"ios\nsystem\n", b"\x82\x01", b"Q"),
    *(b"R", b"b", b"\x81", b"o", b"(", b"t", b"]", b"}", b"e", b"u", b"s", b"a", b"0", b"2", b"h\0", b"h\x01", b"q\0"),
    *(b"\x8e\xff\xff\xff\xff\xff\0\0\0", b"X\xff\xff\xff\x7f", b"\x8b\xff\xff\xff\x7f", b"\x95" + b"\xff" * 8, b"."),
    *(b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch\nFloatStorage\n", b"ccollections\nOrderedDict\n", b")", b"N"),
    *(b"cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R", b"c__builtin__\nset\n", b"cnumpy\ndtype\n", b"]" * 300),
    *(b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07", b"../../x", b"\0" * 512, b"[" * 400),
    *(
        b'"F32"',
        b"1e999",
        b"-1",
        b"[0,9999999999]",
        b'{"a":',
        b"\xc7",
        b"\xc9\xff\xff\xff\xff\x01",
        b"\xdd\xff\xff\xff\xff",
    ),
    *(b"\xdf\xff\xff\xff\xff", b"\x93NUMPY", b"'descr': '|O'", b"(99999999999,)", b"\xff" * 8),
]


def _flip(random: Random, data: bytearray, _: Sequence[bytes]) -> None:
    for _ in range(random.choice([1, 1, 1, 2, 8])):
        at = random.randrange(len(data) * 8)
        data[at // 8] ^= 1 << at % 8


def _byte(random: Random, data: bytearray, _: Sequence[bytes]) -> None:
    for _ in range(random.choice([1, 2, 16])):
        data[random.randrange(len(data))] = random.randrange(256)


def _number(random: Random, data: bytearray, _: Sequence[bytes]) -> None:
    size = random.choice([1, 2, 4, 8])
    value = (random.choice(_NUMBERS) + random.choice([0, 0, -1, 1])) % 256**size
    at = random.randrange(len(data))
    data[at : at + size] = value.to_bytes(size, random.choice(["little", "big"]))


def _cut(random: Random, data: bytearray, _: Sequence[bytes]) -> None:
    del data[random.randrange(len(data)) :]


def _remove(random: Random, data: bytearray, _: Sequence[bytes]) -> None:
    at = random.randrange(len(data))
    del data[at : at + random.choice([1, 2, 4, 16, 100])]


def _repeat(random: Random, data: bytearray, _: Sequence[bytes]) -> None:
    at = random.randrange(len(data))
    piece = data[at : at + random.choice([1, 4, 30, 200])]
    data[at:at] = piece * random.choice([1, 1, 3, 50])


def _insert(random: Random, data: bytearray, _: Sequence[bytes]) -> None:
    at = random.randrange(len(data) + 1)
    data[at : at + random.choice([0, 0, 1, 4])] = random.choice(_PIECES)


def _splice(random: Random, data: bytearray, others: Sequence[bytes]) -> None:
    other = random.choice(others)
    start = random.randrange(len(other))
    piece = other[start : start + random.choice([4, 30, 200, 2000])]
    at = random.randrange(len(data) + 1)
    data[at : at + random.choice([0, len(piece)])] = piece


def _swap(random: Random, data: bytearray, _: Sequence[bytes]) -> None:
    size = random.choice([1, 2, 8, 46])
    a, b = random.randrange(len(data)), random.randrange(len(data))
    data[a : a + size], data[b : b + size] = data[b : b + size], data[a : a + size]


_WAYS: list[Callable[[Random, bytearray, Sequence[bytes]], None]] = [
    _flip,
    _flip,
    _flip,
    _byte,
    _number,
    _number,
    _cut,
    _remove,
    _repeat,
    _insert,
    _insert,
    _splice,
    _swap,
]


def mutate(random: Random, data: bytes, others: Sequence[bytes]) -> tuple[bytes, bool]:
    """Altered bytes, and whether their checksums were put right: then they may well be another value's."""
    repaired = data[:2] == b"PK" and random.random() < 0.6
    if repaired:
        return _inside_zip(random, data, others), True
    return _some(random, data, others), False


def _some(random: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    out = bytearray(data)
    for _ in range(random.choice([1, 1, 1, 2, 4])):
        if not out:
            break
        random.choice(_WAYS)(random, out, others)
    return bytes(out)


def _inside_zip(random: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """The records altered, and the zip file made anew round them."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w") as new:
        entries = old.infolist()
        names = [entry.filename for entry in entries]
        pickled = [name for name in names if name.endswith("data.pkl")]
        target = random.choice(pickled or names) if random.random() < 0.8 else random.choice(names)
        for entry in entries:
            content = old.read(entry)
            name = entry.filename
            if name == target:
                content = _some(random, content, others)
                if random.random() < 0.05:
                    name = random.choice(["../x", "/x", name + "\0", "data.pkl", names[0], ""])
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # duplicate names
                new.writestr(name or "x", content, entry.compress_type)
    return buffer.getvalue()
