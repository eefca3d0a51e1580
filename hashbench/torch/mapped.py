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
"""What the system calls memory without a file that processes share."""


def mapped_files(tensors: Collection[InMemory]) -> dict[int, str]:
    """What tensors are mapped from, as files' paths, by the tensors' index; none where the system does not say.

    A private mapping counts too: pages that nothing has written to show the file as it is now.
    """
    cpu = torch.device("cpu")
    addresses = {index: tensor.tensor.data_ptr() for index, tensor in enumerate(tensors) if tensor.device == cpu}
    if not addresses:
        return {}
    mappings = _mappings()
    starts = [start for start, _, _ in mappings]
    found = {}
    for index, address in addresses.items():
        place = bisect_right(starts, address) - 1
        if place >= 0 and address < mappings[place][1]:
            found[index] = mappings[place][2]
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
            path = "memory that processes share" if fields[5] == _ANONYMOUS else fields[5]
            if path.startswith(_SHARED) or not path.startswith(_DEVICES):
                start, _, end = fields[0].partition("-")
                found.append((int(start, 16), int(end, 16), path))
    return found
