"""What the device code needs besides plain Python: decorators for device functions and kernels, and functions that
are single instructions: loads and stores at an address, byte permutation, multiply-add, rotation.

In Numba's CUDA simulator the same names work on host memory, so that it runs the same device code.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from numba import config, cuda, types

from hashbench.kernels.numba_programs import cached

if config.ENABLE_CUDASIM:
    import ctypes

    import numpy as np

    def device(function: Any) -> Any:
        return function

    def kernel(launch_bounds: int | tuple[int, int]) -> Callable[[Any], Any]:
        return lambda function: cuda.jit(function)

    def _at(address: Any, c_type: Any) -> Any:
        return c_type.from_address(int(address))

    def load_u8(address: Any) -> Any:
        return np.uint32(_at(address, ctypes.c_uint8).value)

    def load_u32(address: Any) -> Any:
        return np.uint32(_at(address, ctypes.c_uint32).value)

    def load_u64(address: Any) -> Any:
        return np.uint64(_at(address, ctypes.c_uint64).value)

    def load_u32x4(address: Any) -> Any:
        return tuple(np.uint32(word) for word in _at(address, ctypes.c_uint32 * 4))

    load_message_u32x4 = load_shared_u32x4 = load_u32x4

    def load_u64x2(address: Any) -> Any:
        return tuple(np.uint64(word) for word in _at(address, ctypes.c_uint64 * 2))

    load_shared_u64x2 = load_u64x2

    def store_shared_u32x4(address: Any, words: Any) -> None:
        _at(address, ctypes.c_uint32 * 4)[:] = [int(word) for word in words]

    def store_shared_u64x2(address: Any, words: Any) -> None:
        _at(address, ctypes.c_uint64 * 2)[:] = [int(word) for word in words]

    SHARED: list[Any] = []
    """The shared memory of each call to `shared_memory`. All groups share it, since they run one after another."""

    def shared_memory(nbytes: int) -> Any:
        SHARED.append((ctypes.c_uint64 * 2 * (nbytes // 16))())
        return partial(np.uint64, ctypes.addressof(SHARED[-1]))

    def store_u32(address: Any, value: Any) -> None:
        _at(address, ctypes.c_uint32).value = int(value)

    def store_u64(address: Any, value: Any) -> None:
        _at(address, ctypes.c_uint64).value = int(value)

    load_acquire, store_release = load_u32, store_u32

    def byte_permute(low: Any, high: Any, selector: Any) -> Any:
        pool = (int(high) << 32 | int(low)).to_bytes(8, "little")
        return np.uint32(int.from_bytes(bytes(pool[int(selector) >> 4 * i & 7] for i in range(4)), "little"))

    def multiply_add(x: Any, y: Any, z: Any) -> Any:
        return np.uint32((int(x) * int(y) + int(z)) & 0xFFFFFFFF)

    def dot_product(x: Any, factors: Any, z: Any) -> Any:
        x, factors = int(x), int(factors)
        return np.uint32((int(z) + (x & 0xFFFF) * (factors & 0xFF) + (x >> 16) * (factors >> 8 & 0xFF)) & 0xFFFFFFFF)

    def fp64_shift_right(x: Any, n: Any) -> Any:
        return np.uint32(int(x) >> int(n))

    def prefetch_message(address: Any) -> None:
        _at(address, ctypes.c_uint8)

    def rotate_right(x: Any, n: Any) -> Any:
        bits = 8 * x.itemsize
        return type(x)((int(x) >> n | int(x) << (bits - n)) & ((1 << bits) - 1))

else:
    from llvmlite import ir
    from numba.cuda.extending import intrinsic

    def device(function: Any) -> Any:
        """A device function, which is always inlined."""
        return cuda.jit(function, device=True, forceinline=True)

    def kernel(launch_bounds: int | tuple[int, int]) -> Callable[[Any], Any]:
        """A kernel, compiled once and cached on disk.

        It is compiled to PTX and assembled, without link-time optimisation, so that the code inspected without a GPU is
        the code that runs on one.

        Args:
            launch_bounds: threads per block, and blocks that must fit on a multiprocessor.
        """
        options = {"launch_bounds": launch_bounds, "lto": False}

        def decorate(function: Any) -> Any:
            return cached(cuda.jit, function, **options)

        return decorate

    def _intrinsic(function: Any) -> Any:
        """A device function that is defined by its types and instructions."""
        return intrinsic(function)

    U32x4 = types.UniTuple(types.uint32, 4)
    U64x2 = types.UniTuple(types.uint64, 2)
    _GLOBAL, _SHARED = 1, 3  # address spaces of NVVM IR
    _I32 = ir.IntType(32)

    def _pointer(builder: Any, address: Any, pointee: Any, space: int = _GLOBAL) -> Any:
        return builder.inttoptr(address, pointee.as_pointer(space))

    def _load(builder: Any, address: Any, pointee: Any, align: int) -> Any:
        return builder.load(_pointer(builder, address, pointee), align=align)

    @_intrinsic
    def load_u8(typing_context: Any, address: Any) -> Any:
        """The byte at `address`, as uint32."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.zext(_load(builder, arguments[0], ir.IntType(8), 1), _I32)

        return types.uint32(types.uint64), generate

    @_intrinsic
    def load_u32(typing_context: Any, address: Any) -> Any:
        """The 32-bit word at `address`, a multiple of 4."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return _load(builder, arguments[0], _I32, 4)

        return types.uint32(types.uint64), generate

    @_intrinsic
    def load_u64(typing_context: Any, address: Any) -> Any:
        """The 64-bit word at `address`, a multiple of 8."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return _load(builder, arguments[0], ir.IntType(64), 8)

        return types.uint64(types.uint64), generate

    @_intrinsic
    def load_u32x4(typing_context: Any, address: Any) -> Any:
        """The four 32-bit words at `address`, a multiple of 16, in one load."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            four = _load(builder, arguments[0], ir.VectorType(_I32, 4), 16)
            words = [builder.extract_element(four, _I32(i)) for i in range(4)]
            return context.make_tuple(builder, U32x4, words)

        return U32x4(types.uint64), generate

    @_intrinsic
    def load_u64x2(typing_context: Any, address: Any) -> Any:
        """The two 64-bit words at `address`, a multiple of 16, in one load."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            two = _load(builder, arguments[0], ir.VectorType(ir.IntType(64), 2), 16)
            return context.make_tuple(builder, U64x2, [builder.extract_element(two, _I32(i)) for i in range(2)])

        return U64x2(types.uint64), generate

    @_intrinsic
    def load_acquire(typing_context: Any, address: Any) -> Any:
        """The 32-bit word at `address`, loaded before all that is loaded after it."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            kind = ir.FunctionType(_I32, [ir.IntType(64)])
            text = "ld.acquire.gpu.global.u32 $0, [$1];"
            return builder.call(ir.InlineAsm(kind, text, "=r,l,~{memory}", side_effect=True), arguments)

        return types.uint32(types.uint64), generate

    @_intrinsic
    def store_release(typing_context: Any, address: Any, value: Any) -> Any:
        """Stores a 32-bit word at `address` after all that was stored before it."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            kind = ir.FunctionType(ir.VoidType(), [ir.IntType(64), _I32])
            text = "st.release.gpu.global.u32 [$0], $1;"
            builder.call(ir.InlineAsm(kind, text, "l,r,~{memory}", side_effect=True), arguments)

        return types.void(types.uint64, types.uint32), generate

    @_intrinsic
    def load_message_u32x4(typing_context: Any, address: Any) -> Any:
        """Like `load_u32x4`, for memory that does not change; the L2 cache fetches the 256 bytes around it."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            kind = ir.FunctionType(ir.LiteralStructType([_I32] * 4), [ir.IntType(64)])
            text = "ld.global.nc.L2::256B.v4.u32 {$0, $1, $2, $3}, [$4];"
            four = builder.call(ir.InlineAsm(kind, text, "=r,=r,=r,=r,l"), arguments)
            return context.make_tuple(builder, U32x4, [builder.extract_value(four, i) for i in range(4)])

        return U32x4(types.uint64), generate

    def _shared_vector(kind: Any) -> tuple[Any, Any]:
        """A load and a store of 16 bytes of shared memory at a multiple of 16, as a tuple of type `kind`."""
        vector = ir.VectorType(ir.IntType(kind.dtype.bitwidth), kind.count)

        @_intrinsic
        def load(typing_context: Any, address: Any) -> Any:
            def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
                loaded = builder.load(_pointer(builder, arguments[0], vector, _SHARED), align=16)
                words = [builder.extract_element(loaded, _I32(i)) for i in range(kind.count)]
                return context.make_tuple(builder, kind, words)

            return kind(types.uint64), generate

        @_intrinsic
        def store(typing_context: Any, address: Any, words: Any) -> Any:
            def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
                value = vector(ir.Undefined)
                for i in range(kind.count):
                    value = builder.insert_element(value, builder.extract_value(arguments[1], i), _I32(i))
                builder.store(value, _pointer(builder, arguments[0], vector, _SHARED), align=16)

            return types.void(types.uint64, kind), generate

        return load, store

    load_shared_u32x4, store_shared_u32x4 = _shared_vector(U32x4)
    load_shared_u64x2, store_shared_u64x2 = _shared_vector(U64x2)

    def shared_memory(nbytes: int) -> Any:
        """A device function that returns the address of `nbytes` of the group's shared memory, a multiple of 16.

        Each call site has its own memory.
        """

        @_intrinsic
        def shared(typing_context: Any) -> Any:
            def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
                kind = ir.ArrayType(ir.IntType(8), nbytes)
                name = builder.module.get_unique_name("shared")
                memory = ir.GlobalVariable(builder.module, kind, name, addrspace=_SHARED)
                memory.linkage = "internal"
                memory.align = 16
                memory.initializer = kind(ir.Undefined)
                return builder.ptrtoint(memory, ir.IntType(64))

            return types.uint64(), generate

        return shared

    @_intrinsic
    def store_u32(typing_context: Any, address: Any, value: Any) -> Any:
        """Stores a 32-bit word at `address`, a multiple of 4."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            builder.store(arguments[1], _pointer(builder, arguments[0], _I32), align=4)

        return types.void(types.uint64, types.uint32), generate

    @_intrinsic
    def store_u64(typing_context: Any, address: Any, value: Any) -> Any:
        """Stores a 64-bit word at `address`, a multiple of 8."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            builder.store(arguments[1], _pointer(builder, arguments[0], ir.IntType(64)), align=8)

        return types.void(types.uint64, types.uint64), generate

    def _ptx(instruction: str, builder: Any, arguments: Any) -> Any:
        """One instruction with three 32-bit operands, which is opaque to the compiler."""
        kind = ir.FunctionType(_I32, [_I32] * 3)
        return builder.call(ir.InlineAsm(kind, f"{instruction} $0, $1, $2, $3;", "=r,r,r,r"), arguments)

    @_intrinsic
    def byte_permute(typing_context: Any, low: Any, high: Any, selector: Any) -> Any:
        """The four bytes of high || low that the four low hexadecimal digits of `selector` select."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return _ptx("prmt.b32", builder, arguments)

        return types.uint32(types.uint32, types.uint32, types.uint32), generate

    @_intrinsic
    def multiply_add(typing_context: Any, x: Any, y: Any, z: Any) -> Any:
        """The low word of x * y + z, on the multiply-add pipe even where y is 1."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return _ptx("mad.lo.u32", builder, arguments)

        return types.uint32(types.uint32, types.uint32, types.uint32), generate

    @_intrinsic
    def dot_product(typing_context: Any, x: Any, factors: Any, z: Any) -> Any:
        """The halves of x, lower first, times the two lower bytes of `factors`, and z: on the multiply-add pipe."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return _ptx("dp2a.lo.u32.u32", builder, arguments)

        return types.uint32(types.uint32, types.uint32, types.uint32), generate

    @_intrinsic
    def fp64_shift_right(typing_context: Any, x: Any, n: Any) -> Any:
        """A 32-bit word shifted right by a constant `n`, on the double-precision pipe: see `kernels/device/sha2.h`."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            x, n = arguments
            scale = builder.bitcast(builder.shl(builder.sub(n.type(1023), n), n.type(52)), ir.DoubleType())  # 2^-n
            kind = ir.FunctionType(_I32, [_I32, ir.DoubleType(), _I32])
            text = (
                "{ .reg .f64 shifted; .reg .u32 rest; mov.b64 shifted, {$1, $3}; "
                "mul.rz.f64 shifted, shifted, $2; mov.b64 {$0, rest}, shifted; }"
            )
            return builder.call(ir.InlineAsm(kind, text, "=r,r,d,r"), [x, scale, _I32(0)])

        return types.uint32(types.uint32, types.uint64), generate

    @_intrinsic
    def prefetch_message(typing_context: Any, address: Any) -> Any:
        """Makes the L2 cache fetch the line at `address`."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            kind = ir.FunctionType(ir.VoidType(), [ir.IntType(64)])
            builder.call(ir.InlineAsm(kind, "prefetch.global.L2 [$0];", "l", side_effect=True), arguments)

        return types.void(types.uint64), generate

    @_intrinsic
    def rotate_right(typing_context: Any, x: Any, n: Any) -> Any:
        """A 32-bit or 64-bit word rotated right by 0 < n < its bits: a funnel shift."""
        if x not in (types.uint32, types.uint64):
            return None

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            x, n = arguments
            bits = x.type(x.type.width)
            return builder.or_(builder.lshr(x, n), builder.shl(x, builder.sub(bits, n)))

        return x(x, x), generate
