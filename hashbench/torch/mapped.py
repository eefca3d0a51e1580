"""Which memory of this process is mapped from a file or shared, so that whoever writes there changes it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection
from pathlib import Path

import torch

from hashbench.torch.tensors import InMemory

_MAPS = Path("/proc/self/maps")
_SHARED = ("/dev/shm/", "/dev/hugepages/")
_DEVICES = "/dev/"

_ANONYMOUS = "/dev/zero (deleted)"
"""What the system calls memory without a file that processes share. A driver of GPUs page-locks such memory too."""

_WITHOUT_FILE = "memory that processes share"


def mapped_files(tensors: Collection[InMemory]) -> dict[int, str]:
    """What tensors are mapped from, as files' paths, by the tensors' index; none where the system does not say.

    A private mapping counts too: pages that nothing has written to show the file as it is now.
    """
    cpu = torch.device("cpu")
    in_host_memory = {index: tensor.tensor for index, tensor in enumerate(tensors) if tensor.device == cpu}
    if not in_host_memory:
        return {}
    mappings = _mappings()
    starts = [start for start, _, _ in mappings]
    found = {}
    for index, tensor in in_host_memory.items():
        address = tensor.data_ptr()
        place = bisect_right(starts, address) - 1
        if place >= 0 and address < mappings[place][1]:
            path = mappings[place][2]
            if path != _WITHOUT_FILE or not tensor.is_pinned():
                found[index] = path
    return found


def _mappings() -> list[tuple[int, int, str]]:
    """Start, end and path of each mapping of a file, in the order of their addresses."""
    try:
        lines = _MAPS.read_text(errors="replace").splitlines()
    except OSError:
        return []
    found = []
    for fields in (line.split(maxsplit=5) for line in lines):
        if len(fields) == 6 and fields[5].startswith("/") and fields[4] != "0":
            path = _WITHOUT_FILE if fields[5] == _ANONYMOUS else fields[5]
            if path.startswith(_SHARED) or not path.startswith(_DEVICES):
                start, _, end = fields[0].partition("-")
                found.append((int(start, 16), int(end, 16), path))
    return found
