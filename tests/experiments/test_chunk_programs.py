"""Libraries that hash a buffer in memory: each is checked before it is timed, and what is missing says why."""

from __future__ import annotations

import ctypes
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hashbench.bench.experiment import Skip
from hashbench.bench.readings import Reading
from hashbench.experiments import chunk_programs
from hashbench.experiments.chunk_programs import LOOPS, OTHERS, of_a_buffer
from hashbench.experiments.programs import program_output
from hashbench.kernels import ALGORITHMS
from hashbench.kernels.hashlib_cpu import HashlibCpu

ONE = HashlibCpu.devices()[0]
PROCESSOR = [ONE, replace(ONE, id="3-threads")]
NBYTES = 40 << 10  # ten chunks, which three threads cannot share equally


@pytest.fixture(scope="module")
def outcomes() -> list[Reading | Skip]:
    return list(of_a_buffer(NBYTES, 2, PROCESSOR))


def measured(outcomes: list[Reading | Skip], subject: str) -> list[Reading]:
    found = [o for o in outcomes if isinstance(o, Reading) and o.subject == subject]
    for skip in (o for o in outcomes if isinstance(o, Skip) and o.what.startswith(subject)):
        pytest.skip(skip.reason)
    return found


@pytest.mark.parametrize("loop", LOOPS, ids=lambda loop: loop.subject)
def test_a_loop_hashes_with_both_algorithms_on_one_thread_and_on_several(outcomes: Any, loop: Any) -> None:
    found = measured(outcomes, loop.subject)
    assert [(r.algorithm, r.device, r.workers) for r in found] == [
        (algorithm, device, workers)
        for algorithm in ALGORITHMS
        for device, workers in (("1-thread", "1 thread"), ("3-threads", "3 threads"))
    ]
    assert all(r.repeats == 2 and r.median > 0 and r.unit == "GB/s" for r in found)


@pytest.mark.parametrize("other", OTHERS, ids=lambda other: other.subject)
def test_other_functions_belong_to_neither_algorithm(outcomes: Any, other: Any) -> None:
    found = measured(outcomes, other.subject)
    assert [r.device for r in found] == (["1-thread", "3-threads"] if other.has_threads else ["1-thread"])
    assert all(r.algorithm == "" and r.note == other.note for r in found)


def reasons(outcomes: list[Reading | Skip], subject: str) -> set[str]:
    return {o.reason for o in outcomes if isinstance(o, Skip) and o.what.startswith(subject)}


def test_what_is_missing_says_what_it_needs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(chunk_programs, "import_module", missing)
    monkeypatch.setenv("PATH", str(tmp_path))
    outcomes = list(of_a_buffer(NBYTES, 1, PROCESSOR))
    assert not any(isinstance(o, Reading) for o in outcomes)
    assert reasons(outcomes, "Intel IPsec-MB") == {
        "its loop in C cannot be compiled (cc is not installed): it needs a C compiler and Debian's libipsec-mb-dev"
    }
    assert reasons(outcomes, "BLAKE3") == {
        "blake3 cannot be imported (No module named 'blake3'): pip install 'hashbench[peers]'"
    }


WRONG = """
const char *library_version(void) { return "wrong 1.0"; }
int hash_chunks(const char *a, const unsigned char *d, unsigned long n, unsigned long s, unsigned char *o) {
    return RESULT;
}
"""


@pytest.mark.parametrize(
    ("result", "reason"), [("1", "differ from hashlib's, so it was not measured"), ("0", "failed")]
)
def test_a_library_with_wrong_digests_is_not_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, result: str, reason: str
) -> None:
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler")
    text = tmp_path / "wrong.c"
    text.write_text(WRONG.replace("RESULT", result))
    program_output(["cc", "-shared", "-fPIC", str(text), "-o", str(tmp_path / "wrong.so")], 30)
    library = ctypes.CDLL(str(tmp_path / "wrong.so"))
    library.hash_chunks.argtypes = [
        *(ctypes.c_char_p, ctypes.c_void_p),
        *(ctypes.c_size_t, ctypes.c_size_t, ctypes.c_void_p),
    ]
    monkeypatch.setattr(chunk_programs, "_compiled", lambda loop: library)
    found = reasons(list(of_a_buffer(NBYTES, 1, PROCESSOR)), "OpenSSL in C")
    assert len(found) == 1
    assert reason in found.pop()
