"""Files that appear whole or not at all."""

import os
from typing import BinaryIO

__all__ = ["Replacing", "sync_folder"]


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
        self.path = os.path.realpath(path)  # through a symbolic link, not in its place
        folder, name = os.path.split(self.path)
        self.temporary = os.path.join(folder, f".{name}.{os.urandom(6).hex()}.tmp")

    def __enter__(self) -> BinaryIO:
        self.file = open(self.temporary, "xb")
        return self.file

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self.file.flush()
                os.fsync(self.file.fileno())
            self.file.close()
            if kind is None:
                os.replace(self.temporary, self.path)
        finally:
            self.file.close()
            if os.path.exists(self.temporary):
                os.unlink(self.temporary)
        if kind is None:
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
