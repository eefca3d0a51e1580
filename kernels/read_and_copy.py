"""Loops that read files into a block and copy the block to a device, compiled by LLVM at run time.

In Python, a thread waits for the interpreter's lock after each read, each copy and each wait. It takes long to get it:
another thread must run, give it up, and wake this one. A call of such a loop waits once, whatever its number of blocks.
"""

from __future__ import annotations

import ctypes
import os
from errno import EINTR
from functools import cache
from threading import Lock
from typing import Any

from hashbench.kernels.contract import PAGE, PartsInTurn

_I64 = ctypes.c_int64

_COMPILING = Lock()  # `cache` alone lets threads compile at the same time, which LLVM does not, and drops all but one


class DriverError(RuntimeError):
    """A driver's function failed.

    Args:
        status: what it returned.

    Attributes:
        status: likewise.
    """

    def __init__(self, status: int) -> None:
        super().__init__(f"a copy to the device failed with status {status} of its driver")
        self.status = status


class ReadAndCopy:
    """The loops, for one driver.

    Args:
        copy: the address of `int copy(int64 target, int64 source, int64 nbytes, int64 stream)`, which begins to copy
            host memory to the device. It returns 0, or why it cannot.
        wait: the address of `int wait(int64 stream)`, which returns when all is copied, likewise.

    Raises:
        ImportError: llvmlite, which comes with Numba, is not installed.
    """

    def __init__(self, copy: int, wait: int) -> None:
        self._driver = copy, wait
        with _COMPILING:
            self._code, self._loop, self._loop_in_turn = _compiled()

    def __call__(self, file: int, offset: int, nbytes: int, block: int, size: int, target: int, stream: int) -> int:
        """Brings bytes of a file to a device.

        Args:
            file: its descriptor.
            offset: the first byte there.
            nbytes: how many.
            block: the address of host memory.
            size: of it, in bytes: that many are read and copied at a time.
            target: the first byte's address on the device.
            stream: what the driver's functions are passed.

        Returns:
            How many bytes came: fewer than `nbytes` if the file ends before them.

        Raises:
            OSError: the file cannot be read.
            DriverError: the driver cannot copy.
        """
        done = _I64(0)
        arguments = (file, offset, nbytes, block, size, target, stream, *self._driver, ctypes.addressof(done))
        while status := self._loop(*arguments):
            if status > 0:
                raise DriverError(status)
            if (error := ctypes.get_errno()) != EINTR:
                raise OSError(error, os.strerror(error))
        return done.value

    def in_turn(self, parts: PartsInTurn, block: int, stream: int) -> int | None:
        """Brings parts of files to a device, each the next that no other caller has taken.

        Args:
            parts: the parts.
            block: the address of host memory in which each fits, as in a lane's.
            stream: as above.

        Returns:
            The part that cannot be read, or whose file is shorter; None if there is none left.

        Raises:
            DriverError: the driver cannot copy.
        """
        failed = _I64(-1)
        addresses = parts.table.ctypes.data, len(parts.table), parts.taken.ctypes.data
        if status := self._loop_in_turn(*addresses, block, stream, *self._driver, ctypes.addressof(failed)):
            raise DriverError(status)
        return None if failed.value < 0 else failed.value


@cache
def _compiled() -> tuple[Any, Any, Any]:
    """What keeps the code in memory, and the functions."""
    from llvmlite import binding

    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    machine = binding.Target.from_default_triple().create_target_machine()
    engine = binding.create_mcjit_compiler(binding.parse_assembly(str(_program())), machine)
    engine.finalize_object()
    kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, *[_I64] * 9, use_errno=True)
    in_turn = ctypes.CFUNCTYPE(ctypes.c_int, *[_I64] * 8)
    loops = kind(engine.get_function_address("read_and_copy")), in_turn(engine.get_function_address("read_in_turn"))
    return engine, *loops


def _program() -> Any:
    from llvmlite import ir

    module = ir.Module("read_and_copy")
    i64 = ir.IntType(64)
    pread = ir.Function(module, ir.FunctionType(i64, [ir.IntType(32), i64, i64, i64]), "pread")
    _define_read_and_copy(module, pread)
    _define_read_in_turn(module, pread)
    return module


def _define_read_and_copy(module: Any, pread: Any) -> None:
    """Defines `int read_and_copy(int file, int64 offset, ...)`, with the arguments of `ReadAndCopy`.

    It begins after the bytes that are there according to its last argument, the address of their number, which it
    updates. It returns 0 after all of them or at the file's end, -1 where a read fails, and the driver's status where
    that is not 0. In C:

        while (*done < nbytes) {
            int64 count = pread(file, block, min(size, nbytes - *done), offset + *done);
            if (count <= 0) return count;
            if (int status = copy(target + *done, block, count, stream)) return status;
            if (int status = wait(stream)) return status;
            *done += count;
        }
        return 0;
    """
    from llvmlite import ir

    i32, i64 = ir.IntType(32), ir.IntType(64)
    function = ir.Function(module, ir.FunctionType(i32, [i32, *[i64] * 9]), "read_and_copy")
    file, offset, nbytes, block, size, target, stream, copy, wait, done = function.args
    start, turn, end = (function.append_basic_block(name) for name in ("start", "turn", "end"))

    b = ir.IRBuilder(start)
    copies = _driver(b, copy, wait)
    done = b.inttoptr(done, i64.as_pointer())
    b.branch(turn)

    b.position_at_end(turn)
    before = b.load(done)
    left = b.sub(nbytes, before)
    with b.if_then(b.icmp_signed("<=", left, i64(0))):
        b.branch(end)
    wanted = b.select(b.icmp_signed("<", left, size), left, size)
    count = b.call(pread, [file, block, wanted, b.add(offset, before)])
    with b.if_then(b.icmp_signed("<=", count, i64(0))):
        b.ret(b.trunc(count, i32))
    _copy(b, copies, b.add(target, before), block, count, stream)
    b.store(b.add(before, count), done)
    b.branch(turn)

    b.position_at_end(end)
    b.ret(i32(0))


def _define_read_in_turn(module: Any, pread: Any) -> None:
    """Defines `int read_in_turn(int64 (*table)[5], int64 count, int64 *taken, ...)`, with the arguments of `in_turn`
    and of `ReadAndCopy`, and the address of a part's number.

    It returns 0 when no part is left, or after it has set the number of one that cannot be read, and the driver's
    status where that is not 0. In C:

        for (;;) {
            int64 index = atomic_fetch_add(taken, 1);
            if (index >= count) return 0;
            int64 file, offset, skipped, nbytes, target = table[index];
            for (int64 filled = 0; filled < skipped + nbytes;) {
                int64 pages = round_up(skipped + nbytes - filled, PAGE);
                int64 count = pread(file, block + filled, pages, offset + filled);
                if (count <= 0) { *failed = index; return 0; }
                filled += count;
            }
            if (int status = copy(target, block + skipped, nbytes, stream)) return status;
            if (int status = wait(stream)) return status;
        }
    """
    from llvmlite import ir

    i32, i64 = ir.IntType(32), ir.IntType(64)
    function = ir.Function(module, ir.FunctionType(i32, [i64] * 8), "read_in_turn")
    table, parts, taken, block, stream, copy, wait, failed = function.args
    start, turn, fill, end = (function.append_basic_block(name) for name in ("start", "turn", "fill", "end"))

    b = ir.IRBuilder(start)
    copies = _driver(b, copy, wait)
    taken, failed = (b.inttoptr(address, i64.as_pointer()) for address in (taken, failed))
    b.branch(turn)

    b.position_at_end(turn)
    index = b.atomic_rmw("add", taken, i64(1), "monotonic")
    with b.if_then(b.icmp_signed(">=", index, parts)):
        b.ret(i32(0))
    row = b.inttoptr(b.add(table, b.mul(index, i64(8 * 5))), i64.as_pointer())
    file, offset, skipped, nbytes, target = (b.load(b.gep(row, [i64(column)])) for column in range(5))
    wanted = b.add(skipped, nbytes)
    before = b.block
    b.branch(fill)

    b.position_at_end(fill)
    filled = b.phi(i64)
    filled.add_incoming(i64(0), before)
    with b.if_then(b.icmp_signed(">=", filled, wanted)):
        b.branch(end)
    pages = b.and_(b.add(b.sub(wanted, filled), i64(PAGE - 1)), i64(-PAGE))
    count = b.call(pread, [b.trunc(file, i32), b.add(block, filled), pages, b.add(offset, filled)])
    with b.if_then(b.icmp_signed("<=", count, i64(0))):
        b.store(index, failed)
        b.ret(i32(0))
    filled.add_incoming(b.add(filled, count), b.block)
    b.branch(fill)

    b.position_at_end(end)
    _copy(b, copies, target, b.add(block, skipped), nbytes, stream)
    b.branch(turn)


def _driver(b: Any, copy: Any, wait: Any) -> tuple[Any, Any]:
    """The driver's functions at these addresses."""
    from llvmlite import ir

    i32, i64 = ir.IntType(32), ir.IntType(64)
    kinds = ir.FunctionType(i32, [i64] * 4), ir.FunctionType(i32, [i64])
    return b.inttoptr(copy, kinds[0].as_pointer()), b.inttoptr(wait, kinds[1].as_pointer())


def _copy(b: Any, driver: tuple[Any, Any], target: Any, source: Any, nbytes: Any, stream: Any) -> None:
    """Copies, and waits; returns the driver's status from the function if it fails."""
    copy, wait = driver
    for function, arguments in ((copy, [target, source, nbytes, stream]), (wait, [stream])):
        status = b.call(function, arguments)
        with b.if_then(b.icmp_signed("!=", status, status.type(0))):
            b.ret(status)
