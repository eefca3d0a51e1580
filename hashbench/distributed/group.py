"""Messages between the ranks of a process group: plain bytes, and an error on every rank where one fails."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist


class GroupError(RuntimeError):
    """The ranks of a group could not talk to each other; the message says why."""


class Ranks:
    """The ranks of a process group.

    Args:
        group: the group; None is all ranks.

    Attributes:
        numbers: the group's ranks, among all.
        mine: this rank, among all.
        sent: the bytes that this rank has sent to others so far.

    Raises:
        GroupError: there is no process group, this rank is not in it, or its backend is for other devices.
    """

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        if not dist.is_available() or not dist.is_initialized():
            raise GroupError("there is no process group: call torch.distributed.init_process_group() first")
        self._group = group  # None stays None: who keeps the group of all ranks keeps its threads
        self.mine: int = dist.get_rank()
        self.sent = 0
        if dist.get_rank(self._group) < 0:
            raise GroupError(f"rank {self.mine} is not in the group that was passed")
        self.numbers: list[int] = dist.get_process_group_ranks(self._group)
        backends = dist.get_backend_config(self._group)
        self._devices = {pair.partition(":")[0] for pair in backends.split(",")}
        if self._devices.isdisjoint(("cpu", "cuda")):
            raise GroupError(f"the group's backend is {backends}: it must be one for cpu or cuda devices")
        # Messages on the host do not wait for what a GPU is busy with.
        self._talk = (
            torch.device("cpu") if "cpu" in self._devices else torch.device("cuda", torch.cuda.current_device())
        )

    def device_for(self, device: torch.device) -> torch.device:
        """Where bytes must be that go to other ranks: where they are, if the group's backend reaches them there."""
        return device if device.type in self._devices else self._talk

    def gather(self, data: bytes) -> list[bytes]:
        """What each rank has, in the order of `numbers`."""
        sizes = self.gather_sized(len(data).to_bytes(8, "little"), [8] * len(self.numbers))
        return self.gather_sized(data, [int.from_bytes(size, "little") for size in sizes])

    def gather_sized(self, data: bytes, sizes: Sequence[int]) -> list[bytes]:
        """What each rank has, where all ranks know how many bytes each has."""
        longest = max(sizes)
        if not longest:
            return [b""] * len(sizes)
        self.sent += longest * (len(sizes) - 1)
        padded = torch.frombuffer(bytearray(data.ljust(longest, b"\0")), dtype=torch.uint8).to(self._talk)
        found = torch.empty((len(sizes), longest), dtype=torch.uint8, device=self._talk)
        with _talking():
            dist.all_gather(list(found), padded, self._group)
            everything = found.cpu().numpy()
        return [row[:size].tobytes() for row, size in zip(everything, sizes, strict=True)]

    def exchange(self, said: torch.Tensor, sizes: Sequence[int], heard: torch.Tensor, of_each: Sequence[int]) -> None:
        """Sends each rank something else. On a GPU, its current stream waits for what comes.

        All ranks call this.

        Args:
            said: uint8, what each rank gets, one after another.
            sizes: the bytes that each gets, in the order of `numbers`.
            heard: uint8, takes what each rank has for this one.
            of_each: the bytes of that.
        """
        self.sent += sum(size for number, size in zip(self.numbers, sizes, strict=True) if number != self.mine)
        with _talking():
            dist.all_to_all_single(heard, said, list(of_each), list(sizes), self._group)


@contextmanager
def _talking() -> Iterator[None]:
    """Says what happened where a rank has ended, or has not answered within the group's timeout."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, GroupError):
            raise
        reason = str(error).partition("\n")[0][:300]
        raise GroupError(
            f"a rank of the process group has ended, or did not answer within the group's timeout: {reason}"
        ) from error
