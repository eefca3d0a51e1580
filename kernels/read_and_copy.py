"""A loop that reads a file into a block and copies the block to a device, compiled by LLVM at run time.

In Python, a thread waits for the interpreter's lock after each read, each copy and each wait. It takes long to get it:
another thread must run, give it up, and wake this one. A call of this loop waits once, whatever its number of blocks.
"""

from __future__ import annotations

import ctypes
import os
from errno import EINTR
from functools import cache
from threading import Lock
from typing import Any

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
    """The loop, for one driver.

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
            self._code, self._loop = _compiled()

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


@cache
def _compiled() -> tuple[Any, Any]:
    """What keeps the code in memory, and the function."""
    from llvmlite import binding

    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    machine = binding.Target.from_default_triple().create_target_machine()
    engine = binding.create_mcjit_compiler(binding.parse_assembly(str(_program())), machine)
    engine.finalize_object()
    kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, *[_I64] * 9, use_errno=True)
    return engine, kind(engine.get_function_address("read_and_copy"))


def _program() -> Any:
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
    module = ir.Module("read_and_copy")
    pread = ir.Function(module, ir.FunctionType(i64, [i32, i64, i64, i64]), "pread")
    function = ir.Function(module, ir.FunctionType(i32, [i32, *[i64] * 9]), "read_and_copy")
    file, offset, nbytes, block, size, target, stream, copy, wait, done = function.args
    start, turn, end = (function.append_basic_block(name) for name in ("start", "turn", "end"))

    b = ir.IRBuilder(start)
    copy = b.inttoptr(copy, ir.FunctionType(i32, [i64] * 4).as_pointer())
    wait = b.inttoptr(wait, ir.FunctionType(i32, [i64]).as_pointer())
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
    for driver, arguments in ((copy, [b.add(target, before), block, count, stream]), (wait, [stream])):
        status = b.call(driver, arguments)
        with b.if_then(b.icmp_signed("!=", status, i32(0))):
            b.ret(status)
    b.store(b.add(before, count), done)
    b.branch(turn)

    b.position_at_end(end)
    b.ret(i32(0))
    return module
