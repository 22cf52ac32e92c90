"""What reading and writing files can raise besides the operating system's own errors."""

__all__ = ["FileFormatError"]


class FileFormatError(ValueError):
    """A file is not what its reader takes: another format, cut off, or damaged. The message names the file."""
