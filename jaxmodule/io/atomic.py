"""Files that appear whole or not at all."""

import contextlib
import errno
import os
from collections.abc import Iterator
from typing import BinaryIO

__all__ = ["Replacing", "naming", "sync_folder"]

_FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
_KEPT = 50  # characters of a name that its temporary name has: a name of 255 bytes, the most there may be, has one too


@contextlib.contextmanager
def naming(path: str) -> Iterator[None]:
    """Errors of the system in a block name `path`, the file that is wanted, and not a temporary one."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, path) from None


class Replacing:
    """A new file that takes the place of `path` when its block ends well, and is gone when it does not.

    Example:
        >>> import os, tempfile
        >>> path = os.path.join(tempfile.mkdtemp(), "a")
        >>> with Replacing(path) as file:
        ...     n = file.write(b"text")
        ...     print(os.path.exists(path))
        False
        >>> from pathlib import Path
        >>> Path(path).read_bytes()
        b'text'
    """

    def __init__(self, path: str) -> None:
        self.given = path
        self.path = os.path.realpath(path)  # through a symbolic link, not in its place
        folder, name = os.path.split(self.path)
        self.temporary = os.path.join(folder, f".{name[:_KEPT]}.{os.urandom(6).hex()}.tmp")

    def __enter__(self) -> BinaryIO:
        with naming(self.given):
            self.file = open(self.temporary, "xb")
        return self.file

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, *_: object) -> None:
        if isinstance(error, OSError) and error.filename is None and error.errno in _FULL:
            error.filename = self.given  # write() doesn't know it
        with naming(self.given):
            self._end(kind is None)

    def _end(self, well: bool) -> None:
        try:
            if well:
                self.file.flush()
                os.fsync(self.file.fileno())
            self.file.close()
            if well:
                os.replace(self.temporary, self.path)
        finally:
            self.file.close()
            if os.path.exists(self.temporary):
                os.unlink(self.temporary)
        if well:
            sync_folder(os.path.dirname(self.path))


def sync_folder(path: str) -> None:
    """Wait until the names in a folder are on disk: a new file's name is there only when its folder is."""
    if os.name != "posix":
        return
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
