"""Recognises what a file is by its first bytes, whatever its name says.

This is for messages: it says that the download of a model went wrong, or which format an unsupported file is in.
Nothing that has to be secure rests on it.
"""

from __future__ import annotations

import os
import re
from typing import BinaryIO

from hashbench.model.gguf import MAGIC
from hashbench.model.opened import opened
from hashbench.model.safetensors_header import MAX_HEADER_SIZE

READ_SIZE = 512
"""Bytes of a file's beginning that are enough to recognise it."""

GIT_LFS_POINTER = "a Git LFS pointer, not the file it stands for"
HTML_PAGE = "an HTML page"
EMPTY = "an empty file"
GZIP = "a gzip archive"
ZIP = "a zip archive"
PYTORCH_ZIP = "a PyTorch zip archive"
PYTORCH_PICKLE = "a PyTorch file of the legacy format"
TAR = "a tar archive"
PICKLE = "a pickle"
GGUF = "a GGUF file"
SAFETENSORS = "a safetensors file"
ONNX = "an ONNX model"

# What torch.save writes first in its legacy format: a pickle of the number 0x1950a86a20f9469cfc6c alone.
_PYTORCH_MAGIC = rb"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19\."

_PATTERNS = [
    (GIT_LFS_POINTER, rb"version https://(?:git-lfs|hawser)\.github\.com/spec/"),
    (HTML_PAGE, rb"(?i:(?:\xef\xbb\xbf)?\s*<(?:!doctype\s+html|html)[\s>])"),
    (GZIP, rb"\x1f\x8b\x08"),
    # A record's name is at byte 30; the first in an archive of torch.save or torch.jit.save is one of these.
    (PYTORCH_ZIP, rb"PK\x03\x04.{26}[^/]+/(?:data\.pkl|\.format_version|\.storage_alignment|byteorder|version|code/)"),
    (ZIP, rb"PK(?:\x03\x04|\x05\x06)"),
    (PYTORCH_PICKLE, rb"\x80." + _PYTORCH_MAGIC),
    (PICKLE, rb"\x80[\x02-\x05]"),
    (TAR, rb".{257}ustar"),
    (GGUF, MAGIC),
    # By its fields: the version of its format, then texts about its producer, or the graph already.
    (ONNX, rb"\x08[\x01-\x1f](?:\x12[\x00-\x7f][ -~]*|[\x1a\x22\x28\x32]|[\x3a\x42][\x01-\xff])"),
]
_RECOGNISED = [(name, re.compile(pattern, re.DOTALL)) for name, pattern in _PATTERNS]


def recognise(file: str | os.PathLike[str] | BinaryIO) -> str | None:
    """Says what a file is, reading its first `READ_SIZE` bytes alone.

    Args:
        file: A path, or a seekable, buffered stream over the whole file.

    Returns:
        One of the names in this module, which complete the sentence "It is ..."; None if the file is something else.

    Raises:
        OSError: The file cannot be read.
    """
    with opened(file) as (stream, _):
        stream.seek(0)
        return recognise_bytes(stream.read(READ_SIZE))


def recognise_bytes(start: bytes) -> str | None:
    """Says what a file is that begins with these bytes: all of it, or at least `READ_SIZE`."""
    if not start:
        return EMPTY
    if 1 < int.from_bytes(start[:8], "little") <= MAX_HEADER_SIZE and start[8:9] == b"{":
        return SAFETENSORS
    return next((name for name, pattern in _RECOGNISED if pattern.match(start)), None)
