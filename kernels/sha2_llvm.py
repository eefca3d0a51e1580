"""The compression of SHA-256 and SHA-384 as LLVM IR, for several messages at once, in the instructions of a processor.

A *way* is how blocks of some messages are compressed side by side:

- "x86-sha": by x86's SHA instructions (SHA-NI), for SHA-256;
- "armv8-sha": by Armv8's, for SHA-256 and, where the processor has them, for SHA-384;
- "avx512": in vectors of 512 bits, one for each word, with one message in each of their elements;
- "avx512-zen5": likewise, in an order for AMD's Zen 5;
- "vectors": likewise, in vectors of any width, without instructions that only AVX-512 has;
- "scalar": one message, in general registers.

`numba_cpu` chooses among those that the processor has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from llvmlite import ir

from hashbench.kernels.contract import Algorithm
from hashbench.kernels.fips180 import Constants, constants

_I64 = ir.IntType(64)
_I32 = ir.IntType(32)
_I8 = ir.IntType(8)

Values = list[Any]

LINE = 64
"""Bytes that a processor fetches at once."""

AHEAD = 2
"""Blocks from one that is compressed to what is fetched for its message meanwhile.

Processors see by themselves which memory a program goes through, but less so with many short messages at once.
"""


@dataclass(frozen=True)
class Method:
    """How blocks are compressed.

    Attributes:
        name: what the method is called.
        ways: the numbers of messages that are compressed side by side, ascending, the last one the number of lanes,
            and one of the ways above for each. Several messages at once take less time than one after the other, but
            more than one alone.
        places: where the state's words a to h are, in words from the start of the first lane's state.
        lane_stride: words from a word of one lane's state to the same word of the next lane's.
    """

    name: str
    ways: tuple[tuple[int, str], ...]
    places: tuple[int, ...]
    lane_stride: int

    @property
    def lanes(self) -> int:
        return self.ways[-1][0]


def scalar() -> Method:
    """One message at a time."""
    return Method("scalar", ((1, "scalar"),), tuple(range(8)), 8)


def vectors(lanes: int) -> Method:
    """A vector of `lanes` elements, a power of two, for each word. A message that is alone needs no vectors."""
    return _of_vectors("vectors", ((1, "scalar"), (lanes, "vectors")))


def avx512(algorithm: Algorithm, *, instructions: bool, zen5: bool) -> Method:
    """Vectors of 512 bits. With x86's SHA instructions, SHA-256 takes them for up to four messages.

    They would be faster for up to eight, by a tenth, but LLVM takes as long for eight as for all other numbers.
    """
    name = "avx512-zen5" if zen5 else "avx512"
    all_lanes = 1024 // algorithm.block_size, name
    if instructions and algorithm.name == "sha256":
        return _of_vectors(f"{name}-sha", (*((n, "x86-sha") for n in (1, 2, 4)), all_lanes))
    return _of_vectors(name, ((1, "scalar"), all_lanes))


def _of_vectors(name: str, ways: tuple[tuple[int, str], ...]) -> Method:
    lanes = ways[-1][0]
    return Method(name, ways, tuple(lanes * i for i in range(8)), 1)


def x86_sha(*widths: int) -> Method:
    """SHA-256 by x86's instructions, which want the state as (f, e, b, a) and (h, g, d, c)."""
    return Method("x86-sha", tuple((n, "x86-sha") for n in widths), (3, 2, 7, 6, 1, 0, 5, 4), 8)


def armv8_sha(*widths: int) -> Method:
    """Either algorithm by Armv8's instructions."""
    return Method("armv8-sha", tuple((n, "armv8-sha") for n in widths), tuple(range(8)), 8)


def define_compression(module: ir.Module, algorithm: Algorithm, method: Method) -> ir.Function:
    """Defines `void compress(i64 active, i64 states, i64 pointers, i64 blocks)` in a module, if it is not there yet.

    It compresses `blocks` blocks, at least one, of the messages of the first `active` lanes, at least one, into their
    states. `states` is the address of the states, `pointers` that of the lanes' addresses of their first blocks, which
    may have any alignment. The lanes that are not active have addresses too, of what can be read.
    """
    name = f"hashbench.compress.{algorithm.name}.{method.name}.{method.lanes}"
    if name in module.globals:
        return module.globals[name]
    of_width = [_define_width(module, f"{name}.{n}", algorithm, method, n, way) for n, way in method.ways]
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [_I64] * 4), name)
    function.linkage = "internal"
    active, *arguments = function.args
    b = ir.IRBuilder(function.append_basic_block("entry"))
    for (width, _), compress in zip(method.ways[:-1], of_width, strict=False):
        with b.if_then(b.icmp_unsigned("<=", active, _I64(width))):
            b.call(compress, arguments)
            b.ret_void()
    b.call(of_width[-1], arguments)
    b.ret_void()
    return function


def _define_width(
    module: ir.Module, name: str, algorithm: Algorithm, method: Method, width: int, way: str
) -> ir.Function:
    """Defines `void compress(i64 states, i64 pointers, i64 blocks)` for the first `width` lanes."""
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [_I64] * 3), name)
    function.linkage = "internal"
    function.attributes.add("noinline")
    function.attributes.add("nounwind")
    states, pointers, blocks = function.args
    rounds = _ROUNDS[way](constants(algorithm.name), width, method)

    b = ir.IRBuilder(function.append_basic_block("entry"))
    size = algorithm.block_size

    def block(offset: Any, state: Values) -> Values:
        places = [b.add(_load(b, _I64, pointers, 8 * lane, align=8), offset) for lane in range(width)]
        for place, line in product(places, range(AHEAD * size, (AHEAD + 1) * size, LINE)):
            prefetch(b, b.add(place, _I64(line)))
        return rounds.compress(b, state, places)

    state = _repeat(b, _I64(0), b.mul(blocks, _I64(size)), size, rounds.load_state(b, states), block)
    rounds.store_state(b, states, state)
    b.ret_void()
    return function


def _repeat(b: Any, first: Any, end: Any, step: int, values: Values, body: Callable[[Any, Values], Values]) -> Values:
    """Values after a loop, in which `body(index, values)` returns the next ones.

    The index is `first`, and then `step` more each time, while it is less than `end`.
    """
    before, loop, after = b.block, b.append_basic_block("loop"), b.append_basic_block("after")
    b.branch(loop)
    b.position_at_end(loop)
    phis = [b.phi(value.type) for value in (first, *values)]
    following = body(phis[0], phis[1:])
    index = b.add(phis[0], _I64(step))
    for phi, value, next_value in zip(phis, (first, *values), (index, *following), strict=True):
        phi.add_incoming(value, before)
        phi.add_incoming(next_value, b.block)
    b.cbranch(b.icmp_unsigned("<", index, end), loop, after)
    b.position_at_end(after)
    return following


def _load(b: Any, kind: Any, address: Any, offset: int, align: int = 1) -> Any:
    pointer = b.inttoptr(b.add(address, _I64(offset)), kind.as_pointer())
    return b.load(pointer, align=align)


def prefetch(b: Any, address: Any) -> None:
    """Brings the line at an address, which need not exist, to the first cache."""
    pointer = b.inttoptr(address, _I8.as_pointer())
    _call(b, "llvm.prefetch.p0", ir.VoidType(), pointer, _I32(0), _I32(3), _I32(1))  # to read, all caches, data


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
    """

    def __init__(self, sha: Constants, register: Any) -> None:
        self.sha = sha
        self.register = register

    def load_state(self, b: Any, address: Any) -> Values:
        raise NotImplementedError

    def store_state(self, b: Any, address: Any, state: Values) -> None:
        raise NotImplementedError

    def compress(self, b: Any, state: Values, places: Values) -> Values:
        """The state after the blocks at the given addresses, one a lane."""
        raise NotImplementedError


class _Scalar(_Rounds):
    """FIPS 180-4 as it is written. A register holds one word of each lane."""

    def __init__(self, sha: Constants, width: int, method: Method) -> None:
        self.word = ir.IntType(sha.word_bits)
        super().__init__(sha, ir.VectorType(self.word, width) if width > 1 else self.word)
        self.offsets = [sha.word_bits // 8 * place for place in method.places]

    def load_state(self, b: Any, address: Any) -> Values:
        return [_load(b, self.register, address, offset) for offset in self.offsets]

    def store_state(self, b: Any, address: Any, state: Values) -> None:
        for offset, register in zip(self.offsets, state, strict=True):
            _store(b, register, address, offset)

    def compress(self, b: Any, state: Values, places: Values) -> Values:
        return self._compress_words(b, state, [_big_endian(b, word) for word in self._message(b, places)])

    def _message(self, b: Any, places: Values) -> Values:
        return [_load(b, self.word, places[0], self.sha.word_bits // 8 * i) for i in range(16)]

    def _compress_words(self, b: Any, state: Values, words: Values) -> Values:
        """The state after a block of 16 words.

        The rounds after the first 16 are a loop: unrolled, they take LLVM three times as long, and are no faster.
        """
        compressed = self._sixteen_rounds(b, state, words, _I64(0))

        def turn(first: Any, values: Values) -> Values:
            words = values[:16]
            after = self._sixteen_rounds(b, values[16:], self._following(b, words), first)
            return [*words, *after]

        end = _I64(len(self.sha.k))
        compressed = _repeat(b, _I64(16), end, 16, [*words, *compressed], turn)[16:]
        return [b.add(old, new) for old, new in zip(state, compressed, strict=True)]

    def _following(self, b: Any, words: Values) -> Iterator[Any]:
        """The 16 words of the message schedule that follow 16, which they replace one by one."""
        for i in range(16):
            w1, w9, w14 = (words[(i + distance) % 16] for distance in (1, 9, 14))
            sigmas = self._small_sigma(b, w1, self.sha.small_sigma_0), self._small_sigma(b, w14, self.sha.small_sigma_1)
            words[i] = b.add(b.add(words[i], sigmas[0]), b.add(w9, sigmas[1]))
            yield words[i]

    def _sixteen_rounds(self, b: Any, state: Values, words: Iterable[Any], first: Any) -> Values:
        """The state after the rounds from number `first` on. Words may be computed one by one, between the rounds.

        LLVM adds a round's numbers in the order in which their operations come here (its pass Reassociate). So the
        constant comes first, and what takes longest, the sigma of the state, last.
        """
        table, following = _table(b, self.sha), iter(words)
        for i in range(16):
            k = self._in_each_lane(b, b.load(b.gep(table, [_I64(0), b.add(first, _I64(i))], inbounds=True)))
            state = self._round(b, state, b.add(next(following), k))
        return state

    def _round(self, b: Any, state: Values, sum_of_two: Any) -> Values:
        """The state after a round of which word and constant add up to `sum_of_two`."""
        a, bb, c, d, e, f, g, h = state
        t1 = b.add(b.add(h, sum_of_two), self._choice(b, e, f, g))
        t1 = b.add(t1, self._big_sigma(b, e, self.sha.big_sigma_1))
        t2 = b.add(self._big_sigma(b, a, self.sha.big_sigma_0), self._majority(b, a, bb, c))
        return [b.add(t1, t2), a, bb, c, b.add(d, t1), e, f, g]

    def _in_each_lane(self, b: Any, word: Any) -> Any:
        return word

    def _choice(self, b: Any, x: Any, y: Any, z: Any) -> Any:
        return b.xor(z, b.and_(x, b.xor(y, z)))

    def _majority(self, b: Any, x: Any, y: Any, z: Any) -> Any:
        return b.xor(b.and_(x, y), b.and_(z, b.xor(x, y)))

    def _sum_of_three(self, b: Any, x: Any, y: Any, z: Any) -> Any:
        """Their sum without carries."""
        return b.xor(b.xor(x, y), z)

    def _big_sigma(self, b: Any, x: Any, rotations: tuple[int, int, int]) -> Any:
        return self._sum_of_three(b, *(self._rotate_right(b, x, n) for n in rotations))

    def _small_sigma(self, b: Any, x: Any, parameters: tuple[int, int, int]) -> Any:
        first, second, shift = parameters
        shifted = b.lshr(x, self._constant(shift))
        return self._sum_of_three(b, self._rotate_right(b, x, first), self._rotate_right(b, x, second), shifted)

    def _rotate_right(self, b: Any, x: Any, n: int) -> Any:
        return b.or_(b.lshr(x, self._constant(n)), b.shl(x, self._constant(self.sha.word_bits - n)))

    def _constant(self, value: int) -> Any:
        return self.word(value)


def _table(b: Any, sha: Constants) -> Any:
    """The constants of all rounds, in memory.

    As numbers in the text, LLVM would add them last, when all else of a round waits for the sum.
    """
    name = f"hashbench.k.{sha.word_bits}"
    if name not in b.module.globals:
        kind = ir.ArrayType(ir.IntType(sha.word_bits), len(sha.k))
        table = ir.GlobalVariable(b.module, kind, name)
        table.linkage, table.global_constant, table.initializer = "internal", True, ir.Constant(kind, list(sha.k))
    return b.module.globals[name]


class _Vectors(_Scalar):
    def _constant(self, value: int) -> Any:
        return ir.Constant(self.register, [value] * self.register.count)

    def _in_each_lane(self, b: Any, word: Any) -> Any:
        vector = b.insert_element(ir.Constant(self.register, ir.Undefined), word, _I32(0))
        return _shuffle(b, vector, vector, [0] * self.register.count)

    def _message(self, b: Any, places: Values) -> Values:
        size, at_once = self.sha.word_bits // 8, self.register.count
        kind = ir.VectorType(self.word, at_once)
        words: Values = []
        for first in range(0, 16, at_once):
            words += _transposed(b, [_load(b, kind, place, size * first) for place in places])
        return words


class _Avx512(_Vectors):
    """Vectors of 512 bits, with AVX-512's instruction for any function of three bits."""

    def _choice(self, b: Any, x: Any, y: Any, z: Any) -> Any:
        return self._function(b, 0xCA, x, y, z)

    def _majority(self, b: Any, x: Any, y: Any, z: Any) -> Any:
        return self._function(b, 0xE8, x, y, z)

    def _sum_of_three(self, b: Any, x: Any, y: Any, z: Any) -> Any:
        return self._function(b, 0x96, x, y, z)

    def _function(self, b: Any, values: int, x: Any, y: Any, z: Any) -> Any:
        """Bit n of `values` is what the function is where the bits of x, y and z are those of the number n."""
        name = f"llvm.x86.avx512.pternlog.{'d' if self.sha.word_bits == 32 else 'q'}.512"
        return _call(b, name, self.register, x, y, z, _I32(values))


class _Avx512Zen5(_Avx512):
    """For AMD's Zen 5, which begins four operations in a clock and takes two clocks for each."""

    def _round(self, b: Any, state: Values, sum_of_two: Any) -> Values:
        """A round with an operation more. From one e or a to the next, three wait for each other instead of four."""
        a, bb, c, d, e, f, g, h = state
        early = b.add(b.add(b.add(h, sum_of_two), d), self._choice(b, e, f, g))
        next_e = b.add(early, self._big_sigma(b, e, self.sha.big_sigma_1))
        rest = b.add(b.sub(next_e, d), self._majority(b, a, bb, c))
        return [b.add(rest, self._big_sigma(b, a, self.sha.big_sigma_0)), a, bb, c, next_e, e, f, g]


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

    words: tuple[int, ...] = (0, 1, 2, 3, 4, 5, 6, 7)
    """The order of the words a to h in a lane's registers."""

    def __init__(self, sha: Constants, width: int, method: Method) -> None:
        super().__init__(sha, ir.VectorType(ir.IntType(sha.word_bits), 128 // sha.word_bits))
        places = [method.places[word] + lane * method.lane_stride for lane in range(width) for word in self.words]
        count = self.register.count
        self.places = [places[i : i + count] for i in range(0, len(places), count)]
        self.registers = len(self.words) // count

    def load_state(self, b: Any, address: Any) -> Values:
        size = self.sha.word_bits // 8
        state = []
        for places in self.places:
            register = self.register(ir.Undefined)
            for i, place in enumerate(places):
                register = b.insert_element(register, _load(b, self.register.element, address, size * place), _I32(i))
            state.append(register)
        return state

    def store_state(self, b: Any, address: Any, state: Values) -> None:
        size = self.sha.word_bits // 8
        for places, register in zip(self.places, state, strict=True):
            for i, place in enumerate(places):
                _store(b, b.extract_element(register, _I32(i)), address, size * place)

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
    words = (5, 4, 1, 0, 7, 6, 3, 2)

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


def _armv8_sha(sha: Constants, width: int, method: Method) -> _Rounds:
    return (_Armv8Sha256 if sha.word_bits == 32 else _Armv8Sha512)(sha, width, method)


_ROUNDS: dict[str, Callable[[Constants, int, Method], _Rounds]] = {
    "x86-sha": _X86Sha,
    "armv8-sha": _armv8_sha,
    "avx512": _Avx512,
    "avx512-zen5": _Avx512Zen5,
    "vectors": _Vectors,
    "scalar": _Scalar,
}
