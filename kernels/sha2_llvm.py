"""The compression of SHA-256 and SHA-384 as LLVM IR, for several messages at once, in the instructions of a processor.

A *method* is one way to do it:

- "x86-sha": x86's SHA instructions (SHA-NI), for SHA-256;
- "armv8-sha": Armv8's, for SHA-256 and, where the processor has them, for SHA-384;
- "vectors": a vector for each word, with one message in each of its elements;
- "scalar": one message, in general registers.

`numba_cpu` chooses among those that the processor has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from llvmlite import ir

from hashbench.kernels.contract import Algorithm
from hashbench.kernels.fips180 import Constants, constants

_I64 = ir.IntType(64)
_I32 = ir.IntType(32)
_I8 = ir.IntType(8)

Values = list[Any]


@dataclass(frozen=True)
class Method:
    """How blocks are compressed.

    Attributes:
        name: one of the methods above.
        widths: the numbers of messages that can be compressed side by side, the last one the number of lanes. Several
            at once take less time than one after the other, but more than one alone.
        places: where the state's words a to h are, in words from the start of the first lane's state.
        lane_stride: words from a word of one lane's state to the same word of the next lane's.
    """

    name: str
    widths: tuple[int, ...]
    places: tuple[int, ...]
    lane_stride: int

    @property
    def lanes(self) -> int:
        return self.widths[-1]


def scalar() -> Method:
    """One message at a time."""
    return Method("scalar", (1,), tuple(range(8)), 8)


def vectors(lanes: int) -> Method:
    """A vector of `lanes` elements, a power of two, for each word. A message that is alone needs no vectors."""
    return Method("vectors", (1, lanes), tuple(lanes * i for i in range(8)), 1)


def x86_sha(*widths: int) -> Method:
    """SHA-256 by x86's instructions, which want the state as (f, e, b, a) and (h, g, d, c)."""
    return Method("x86-sha", widths, (3, 2, 7, 6, 1, 0, 5, 4), 8)


def armv8_sha(*widths: int) -> Method:
    """Either algorithm by Armv8's instructions."""
    return Method("armv8-sha", widths, tuple(range(8)), 8)


def define_compression(module: ir.Module, algorithm: Algorithm, method: Method) -> ir.Function:
    """Defines `void compress(i64 active, i64 states, i64 pointers, i64 blocks)` in a module, if it is not there yet.

    It compresses `blocks` blocks, at least one, of the messages of the first `active` lanes, at least one, into their
    states. `states` is the address of the states, `pointers` that of the lanes' addresses of their first blocks, which
    may have any alignment. The lanes that are not active have addresses too, of what can be read.
    """
    name = f"hashbench.compress.{algorithm.name}.{method.name}.{method.lanes}"
    if name in module.globals:
        return module.globals[name]
    of_width = {width: _define_width(module, f"{name}.{width}", algorithm, method, width) for width in method.widths}
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [_I64] * 4), name)
    function.linkage = "internal"
    active, *arguments = function.args
    b = ir.IRBuilder(function.append_basic_block("entry"))
    for width in method.widths[:-1]:
        with b.if_then(b.icmp_unsigned("<=", active, _I64(width))):
            b.call(of_width[width], arguments)
            b.ret_void()
    b.call(of_width[method.lanes], arguments)
    b.ret_void()
    return function


def _define_width(module: ir.Module, name: str, algorithm: Algorithm, method: Method, width: int) -> ir.Function:
    """Defines `void compress(i64 states, i64 pointers, i64 blocks)` for the first `width` lanes."""
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [_I64] * 3), name)
    function.linkage = "internal"
    function.attributes.add("noinline")
    function.attributes.add("nounwind")
    states, pointers, blocks = function.args
    kind = "scalar" if width == 1 and method.name == "vectors" else method.name
    rounds = _ROUNDS[kind](constants(algorithm.name), width, method.places)

    entry, loop, end = (function.append_basic_block(label) for label in ("entry", "loop", "end"))
    b = ir.IRBuilder(entry)
    nbytes = b.mul(blocks, _I64(algorithm.block_size))
    first = rounds.load_state(b, states)
    b.branch(loop)

    b.position_at_end(loop)
    offset = b.phi(_I64)
    offset.add_incoming(_I64(0), entry)
    state = [b.phi(value.type) for value in first]
    for phi, value in zip(state, first, strict=True):
        phi.add_incoming(value, entry)
    places = [b.add(_load(b, _I64, pointers, 8 * lane, align=8), offset) for lane in range(width)]
    compressed = rounds.compress(b, state, places)
    following = b.add(offset, _I64(algorithm.block_size))
    offset.add_incoming(following, b.block)
    for phi, value in zip(state, compressed, strict=True):
        phi.add_incoming(value, b.block)
    b.cbranch(b.icmp_unsigned("<", following, nbytes), loop, end)

    b.position_at_end(end)
    rounds.store_state(b, states, compressed)
    b.ret_void()
    return function


def _load(b: Any, kind: Any, address: Any, offset: int, align: int = 1) -> Any:
    pointer = b.inttoptr(b.add(address, _I64(offset)), kind.as_pointer())
    return b.load(pointer, align=align)


def _store(b: Any, value: Any, address: Any, offset: int) -> None:
    b.store(value, b.inttoptr(b.add(address, _I64(offset)), value.type.as_pointer()), align=1)


def _call(b: Any, name: str, result: Any, *arguments: Any) -> Any:
    """Calls one of LLVM's intrinsic functions."""
    function = b.module.globals.get(name) or ir.Function(
        b.module, ir.FunctionType(result, [argument.type for argument in arguments]), name
    )
    return b.call(function, arguments)


def _shuffle(b: Any, x: Any, y: Any, elements: Sequence[int]) -> Any:
    """The given elements of x || y."""
    return b.shuffle_vector(x, y, ir.Constant(ir.VectorType(_I32, len(elements)), list(elements)))


def _big_endian(b: Any, words: Any) -> Any:
    """A word, or each word of a vector, with its bytes reversed."""
    if isinstance(words.type, ir.IntType):
        return b.bswap(words)
    size = words.type.element.width // 8
    as_bytes = b.bitcast(words, ir.VectorType(_I8, size * words.type.count))
    order = [i ^ (size - 1) for i in range(size * words.type.count)]
    return b.bitcast(_shuffle(b, as_bytes, as_bytes, order), words.type)


class _Rounds:
    """The state of some lanes in registers, and the compression of a block of each.

    Attributes:
        register: the type of a register.
        offsets: where the registers are in memory, in bytes.
    """

    def __init__(self, sha: Constants, register: Any, offsets: Sequence[int]) -> None:
        self.sha = sha
        self.register = register
        self.offsets = offsets

    def load_state(self, b: Any, address: Any) -> Values:
        return [_load(b, self.register, address, offset) for offset in self.offsets]

    def store_state(self, b: Any, address: Any, state: Values) -> None:
        for offset, register in zip(self.offsets, state, strict=True):
            _store(b, register, address, offset)

    def compress(self, b: Any, state: Values, places: Values) -> Values:
        """The state after the blocks at the given addresses, one a lane."""
        raise NotImplementedError


class _Scalar(_Rounds):
    """FIPS 180-4 as it is written. A register holds one word of each lane."""

    def __init__(self, sha: Constants, width: int, places: Sequence[int]) -> None:
        self.word = ir.IntType(sha.word_bits)
        register = ir.VectorType(self.word, width) if width > 1 else self.word
        super().__init__(sha, register, [sha.word_bits // 8 * place for place in places])

    def compress(self, b: Any, state: Values, places: Values) -> Values:
        return self._compress_words(b, state, [_big_endian(b, word) for word in self._message(b, places)])

    def _message(self, b: Any, places: Values) -> Values:
        return [_load(b, self.word, places[0], self.sha.word_bits // 8 * i) for i in range(16)]

    def _constant(self, value: int) -> Any:
        return self.word(value)

    def _compress_words(self, b: Any, state: Values, w: Values) -> Values:
        sha = self.sha
        a, bb, c, d, e, f, g, h = state
        for i, k in enumerate(sha.k):
            if i >= 16:
                w.append(
                    b.add(
                        b.add(w[i - 16], self._small_sigma(b, w[i - 15], sha.small_sigma_0)),
                        b.add(w[i - 7], self._small_sigma(b, w[i - 2], sha.small_sigma_1)),
                    )
                )
            t1 = b.add(h, b.add(w[i], self._constant(k)))
            t1 = b.add(t1, b.xor(g, b.and_(e, b.xor(f, g))))
            t1 = b.add(t1, self._big_sigma(b, e, sha.big_sigma_1))
            maj = b.xor(b.and_(a, bb), b.and_(c, b.xor(a, bb)))
            t2 = b.add(self._big_sigma(b, a, sha.big_sigma_0), maj)
            a, bb, c, d, e, f, g, h = b.add(t1, t2), a, bb, c, b.add(d, t1), e, f, g
        return [b.add(old, new) for old, new in zip(state, (a, bb, c, d, e, f, g, h), strict=True)]

    def _big_sigma(self, b: Any, x: Any, rotations: tuple[int, int, int]) -> Any:
        first, second, third = (self._rotate_right(b, x, n) for n in rotations)
        return b.xor(b.xor(first, second), third)

    def _small_sigma(self, b: Any, x: Any, parameters: tuple[int, int, int]) -> Any:
        first, second, shift = parameters
        rotated = b.xor(self._rotate_right(b, x, first), self._rotate_right(b, x, second))
        return b.xor(rotated, b.lshr(x, self._constant(shift)))

    def _rotate_right(self, b: Any, x: Any, n: int) -> Any:
        return b.or_(b.lshr(x, self._constant(n)), b.shl(x, self._constant(self.sha.word_bits - n)))


class _Vectors(_Scalar):
    def _constant(self, value: int) -> Any:
        return ir.Constant(self.register, [value] * self.register.count)

    def _message(self, b: Any, places: Values) -> Values:
        size, at_once = self.sha.word_bits // 8, self.register.count
        kind = ir.VectorType(self.word, at_once)
        words: Values = []
        for first in range(0, 16, at_once):
            words += _transposed(b, [_load(b, kind, place, size * first) for place in places])
        return words


def _transposed(b: Any, rows: Values) -> Values:
    """A square matrix transposed, its rows as vectors.

    First within parts of 128 bits, then the parts as a whole: most processors do either in one instruction a row.
    """
    count = len(rows)
    part = min(count, 128 // rows[0].type.element.width)
    low = [start + i // 2 + count * (i % 2) for start in range(0, count, part) for i in range(part)]
    high = [i + part // 2 for i in low]
    for _ in range(part.bit_length() - 1):
        pairs = [(first + i, first + i + part // 2) for first in range(0, count, part) for i in range(part // 2)]
        rows = [_shuffle(b, rows[x], rows[y], half) for x, y in pairs for half in (low, high)]
    distance = part
    while distance < count:
        low = [count + i - distance if i & distance else i for i in range(count)]
        high = [count + i if i & distance else i + distance for i in range(count)]
        rows = [
            _shuffle(b, rows[i - distance], rows[i], high)
            if i & distance
            else _shuffle(b, rows[i], rows[i + distance], low)
            for i in range(count)
        ]
        distance *= 2
    return rows


class _Streams(_Rounds):
    """Processors' own instructions: each lane has registers of its own, and its steps alternate with the others'."""

    registers = 0  # of a lane's state

    def __init__(self, sha: Constants, width: int, places: Sequence[int]) -> None:
        register = ir.VectorType(ir.IntType(sha.word_bits), 128 // sha.word_bits)
        super().__init__(sha, register, [16 * i for i in range(self.registers * width)])

    def compress(self, b: Any, state: Values, places: Values) -> Values:
        size = self.registers
        results: list[Values] = [[] for _ in places]
        steps = [
            self._steps(b, state[size * lane : size * (lane + 1)], place, results[lane])
            for lane, place in enumerate(places)
        ]
        for _ in zip(*steps, strict=True):
            pass
        return [value for result in results for value in result]

    def _steps(self, b: Any, state: Values, place: Any, result: Values) -> Iterator[None]:
        """Emits one lane's compression, and yields after each step; at the end the new state is added to `result`."""
        raise NotImplementedError

    def _message(self, b: Any, place: Any) -> Values:
        """The block's words, in registers."""
        count = 16 // self.register.count
        return [_big_endian(b, _load(b, self.register, place, 16 * i)) for i in range(count)]

    def _constants(self, first: int) -> Any:
        """The constants of the rounds from `first` on."""
        return ir.Constant(self.register, list(self.sha.k[first : first + self.register.count]))


class _X86Sha(_Streams):
    registers = 2

    def _steps(self, b: Any, state: Values, place: Any, result: Values) -> Iterator[None]:
        kind = self.register
        abef, cdgh = state
        w = self._message(b, place)
        for i in range(16):
            if i >= 4:
                sums = b.add(
                    _call(b, "llvm.x86.sha256msg1", kind, w[i - 4], w[i - 3]),
                    _shuffle(b, w[i - 2], w[i - 1], (1, 2, 3, 4)),
                )
                w.append(_call(b, "llvm.x86.sha256msg2", kind, sums, w[i - 1]))
            sum_of_two = b.add(w[i], self._constants(4 * i))
            other_two = _shuffle(b, sum_of_two, sum_of_two, (2, 3, 2, 3))
            cdgh = _call(b, "llvm.x86.sha256rnds2", kind, cdgh, abef, sum_of_two)
            abef, cdgh = _call(b, "llvm.x86.sha256rnds2", kind, abef, cdgh, other_two), cdgh
            yield
        result += [b.add(state[0], abef), b.add(state[1], cdgh)]


class _Armv8Sha256(_Streams):
    registers = 2

    def _steps(self, b: Any, state: Values, place: Any, result: Values) -> Iterator[None]:
        kind = self.register
        abcd, efgh = state
        w = self._message(b, place)
        for i in range(16):
            if i >= 4:
                started = _call(b, "llvm.aarch64.crypto.sha256su0", kind, w[i - 4], w[i - 3])
                w.append(_call(b, "llvm.aarch64.crypto.sha256su1", kind, started, w[i - 2], w[i - 1]))
            sums = b.add(w[i], self._constants(4 * i))
            abcd, efgh = (
                _call(b, "llvm.aarch64.crypto.sha256h", kind, abcd, efgh, sums),
                _call(b, "llvm.aarch64.crypto.sha256h2", kind, efgh, abcd, sums),
            )
            yield
        result += [b.add(state[0], abcd), b.add(state[1], efgh)]


class _Armv8Sha512(_Streams):
    """Two rounds a step; the state is ab, cd, ef, gh."""

    registers = 4

    def _steps(self, b: Any, state: Values, place: Any, result: Values) -> Iterator[None]:
        kind = self.register
        ab, cd, ef, gh = state
        w = self._message(b, place)
        for i in range(40):
            if i >= 8:
                started = _call(b, "llvm.aarch64.crypto.sha512su0", kind, w[i - 8], w[i - 7])
                middle = _shuffle(b, w[i - 4], w[i - 3], (1, 2))
                w.append(_call(b, "llvm.aarch64.crypto.sha512su1", kind, started, w[i - 1], middle))
            sums = b.add(w[i], self._constants(2 * i))
            swapped = _shuffle(b, sums, sums, (1, 0))
            sums = b.add(swapped, gh)
            fg, de = _shuffle(b, ef, gh, (1, 2)), _shuffle(b, cd, ef, (1, 2))
            t1 = _call(b, "llvm.aarch64.crypto.sha512h", kind, sums, fg, de)
            t = _call(b, "llvm.aarch64.crypto.sha512h2", kind, t1, cd, ab)
            ab, cd, ef, gh = t, ab, b.add(cd, t1), ef
            yield
        result += [b.add(old, new) for old, new in zip(state, (ab, cd, ef, gh), strict=True)]


def _armv8_sha(sha: Constants, width: int, places: Sequence[int]) -> _Rounds:
    return (_Armv8Sha256 if sha.word_bits == 32 else _Armv8Sha512)(sha, width, places)


_ROUNDS: dict[str, Callable[[Constants, int, Sequence[int]], _Rounds]] = {
    "x86-sha": _X86Sha,
    "armv8-sha": _armv8_sha,
    "vectors": _Vectors,
    "scalar": _Scalar,
}
