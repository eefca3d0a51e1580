"""The command line as its users see it: output, exit codes and one-line errors."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from command_line import COMMAND, in_own_process, in_process

from hashbench.cli.main import COMMANDS
from hashbench.hashing import selection
from hashbench.hashing.sizes import format_size, parse_size
from hashbench.kernels import KERNELS
from hashbench.merkle.rfc9162 import chunks_of, merkle_tree_hash

DATA = hashlib.shake_128(b"a file").digest(1_000_003)
HASHLIB = ("hash", "--kernel", "hashlib")


def hash_(*arguments: str | bytes | Path) -> subprocess.CompletedProcess[bytes]:
    """`hashbench hash` with hashlib."""
    return in_process(*HASHLIB, *arguments)


def the_error(result: subprocess.CompletedProcess[bytes]) -> str:
    """The one line of an unusable call."""
    assert result.returncode == 2
    lines = result.stderr.decode().splitlines()
    assert len(lines) == 1, result.stderr.decode()
    assert lines[0].startswith("hashbench: ")
    return lines[0].removeprefix("hashbench: ")


def root(data: bytes, chunk_size: int = 4096, algorithm: str = "sha256") -> str:
    return merkle_tree_hash(chunks_of(data, chunk_size), algorithm).hex()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.bin"
    path.write_bytes(DATA)
    return path


def _kernel_named(kernel: str) -> object:
    devices = [device for device in selection.devices() if device.kernel == kernel]
    marks = [pytest.mark.covers(kernel), pytest.mark.xdist_group(kernel)]
    if all(device.unavailable for device in devices):
        marks.append(pytest.mark.skip(reason=f"{kernel}: {devices[0].unavailable}"))
    return pytest.param(kernel, marks=marks)


# What a file's hash is


@pytest.mark.parametrize("name", [_kernel_named(name) for name in KERNELS])
@pytest.mark.parametrize("algorithm", ["sha256", pytest.param("sha384", marks=pytest.mark.thorough)])
def test_every_kernel_gives_a_real_file_the_same_root(name: str, algorithm: str, file: Path) -> None:
    result = in_process("hash", "--kernel", name, "--algorithm", algorithm, file)
    assert result.returncode == 0, result.stderr.decode()
    assert result.stdout.decode() == f"{root(DATA, algorithm=algorithm)}  {file}\n"


@pytest.mark.xdist_group(selection.available()[0].kernel)
def test_the_fastest_kernel_is_the_default(file: Path) -> None:
    result = in_process("hash", "--chunk-size", "1MiB", file)
    assert result.returncode == 0, result.stderr.decode()
    assert result.stdout.decode() == f"{root(DATA, 1 << 20)}  {file}\n"


@pytest.mark.parametrize("device", [d.id for d in selection.devices() if d.kernel == "hashlib"])
def test_a_device_is_chosen_by_its_id(device: str, file: Path) -> None:
    assert hash_("--device", device, file).stdout.decode() == f"{root(DATA)}  {file}\n"
    assert in_process("hash", "--device", device, file).stdout.decode() == f"{root(DATA)}  {file}\n"


def test_standard_input_is_a_file_too(file: Path) -> None:
    assert in_own_process(*HASHLIB, "-", input=DATA).stdout.decode() == f"{root(DATA)}  -\n"
    with file.open("rb") as stream:
        stream.seek(1000)
        assert in_own_process(*HASHLIB, "-", stdin=stream).stdout.decode() == f"{root(DATA[1000:])}  -\n"


@pytest.mark.parametrize("data", [b"", b"short"])
def test_chunks_may_be_larger_than_the_data(data: bytes, file: Path) -> None:
    file.write_bytes(data)
    assert hash_("--chunk-size", "256MiB", file).stdout.decode() == f"{root(data)}  {file}\n"


def test_leaves_are_plain_digests_with_their_bytes(file: Path) -> None:
    result = hash_("--leaves", "--chunk-size", "64KiB", "--algorithm", "sha384", file)
    ranges = [(start, min(start + 65536, len(DATA))) for start in range(0, len(DATA), 65536)]
    lines = [f"{hashlib.sha384(DATA[a:b]).hexdigest()}  {file}[{a}:{b}]" for a, b in ranges]
    assert result.stdout.decode().splitlines() == lines
    assert result.returncode == 0


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="sha256sum is not installed")
@pytest.mark.parametrize("name", [b"with space", b"back\\slash", b"new\nline", b"\xff not valid UTF-8", "ü".encode()])
def test_lines_are_those_of_sha256sum(name: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path(os.fsdecode(name)).write_bytes(DATA)
    theirs = subprocess.run(["sha256sum", name], capture_output=True, check=True).stdout
    ours = hash_(name).stdout
    digest = hashlib.sha256(DATA).hexdigest().encode()
    assert ours == theirs.replace(digest, root(DATA).encode())


# What is refused


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--chunk-size", "0"], "chunk size 0 is not accepted: it must be a positive multiple of 64 bytes"),
        (["--chunk-size", "-64"], "chunk size -64 is not accepted: it must be a positive multiple of 64 bytes"),
        (["--chunk-size", "100"], "chunk size 100 is not accepted: it must be a positive multiple of 64 bytes"),
        (["--chunk-size", "512MiB"], "chunk size 536870912 is not accepted for data in files or host memory"),
        (["--chunk-size", "4 leaves"], "'4 leaves' is not a size: write a number of bytes"),
        (["--chunk-size"], "Option '--chunk-size' requires an argument"),
        (
            ["--kernel", "md5sum"],
            "unknown kernel 'md5sum': accepted are hashlib, numba-cpu, cupy, numba-cuda, triton, dpnp, opencl",
        ),
        (["--device", "gpu:99"], "unknown device 'gpu:99': accepted are 1-thread"),
        (["--algorithm", "md5"], "'md5' is not one of 'sha256', 'sha384'"),
        (["--no-such-option"], "No such option"),
    ],
)
def test_a_call_that_is_misused_is_refused(arguments: list[str], error: str, file: Path) -> None:
    result = hash_(file, *arguments)
    assert error in the_error(result)
    assert result.stdout == b""


@pytest.mark.parametrize(
    ("arguments", "error"),
    [(["no-such-command"], "No such command 'no-such-command'"), (["hash"], "Missing argument 'FILE...'")],
)
def test_a_command_that_is_misused_is_refused(arguments: list[str], error: str) -> None:
    assert error in the_error(in_process(*arguments))


def test_a_missing_file_and_a_directory_are_refused(file: Path) -> None:
    missing = file.with_name("missing")
    assert the_error(hash_(missing)) == f"{missing}: No such file or directory"
    assert the_error(hash_(file.parent)) == f"{file.parent}: Is a directory"


AS_NOBODY = """
import os, sys
from hashbench.cli import main as cli
cli.run(["hash", "--kernel", "hashlib", os.__file__])  # imports what the command needs
if os.geteuid() == 0:
    os.seteuid(65534)  # the superuser may read every file
sys.exit(cli.run(sys.argv[1:]))
"""


def test_a_file_that_may_not_be_read_is_refused(file: Path) -> None:
    file.chmod(0)
    arguments = ["hash", "--kernel", "hashlib", str(file)]
    result = subprocess.run([sys.executable, "-c", AS_NOBODY, *arguments], capture_output=True, check=False)
    assert the_error(result) == f"{file}: Permission denied"


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="this system has no file that opens and cannot be read")
def test_an_error_while_reading_is_reported() -> None:
    assert the_error(hash_("/proc/self/mem")) == "/proc/self/mem: Input/output error"


def test_many_small_files_are_hashed_in_their_order(file: Path, tmp_path: Path) -> None:
    small = [tmp_path / str(number) for number in range(600)]
    for path in small:
        path.write_bytes(path.name.encode())
    small[300].write_bytes(b"")
    names = [*small[:400], file, small[7], *small, tmp_path / "missing", small[0], small[0]]
    result = hash_(*names)
    assert the_error(result) == f"{tmp_path}/missing: No such file or directory"
    wanted = [f"{root(path.read_bytes())}  {path}" for path in names if path.exists()]
    assert result.stdout.decode().splitlines() == wanted


def test_one_bad_file_does_not_hide_the_others(file: Path) -> None:
    missing = file.with_name("missing")
    result = hash_(file, missing, file)
    assert the_error(result) == f"{missing}: No such file or directory"
    assert result.stdout.decode() == f"{root(DATA)}  {file}\n" * 2


def test_lists_of_roots_are_checked(file: Path, tmp_path: Path) -> None:
    other, roots = tmp_path / "an\nother", tmp_path / "roots"
    other.write_bytes(b"other")
    for options in ((), ("--tag", "--algorithm", "sha384", "--chunk-size", "64")):
        roots.write_bytes(hash_(*options, file, other).stdout)
        lines = f"{file}: OK\n{tmp_path}/an\\nother: OK\n"
        result = hash_("--check", roots)
        assert (result.returncode, result.stdout.decode(), result.stderr) == (0, lines, b"")
        assert hash_("--check", "--quiet", roots).stdout == b""
        wrong = bytearray(file.read_bytes())
        wrong[5] ^= 1
        file.write_bytes(wrong)
        result = hash_("--check", "--quiet", roots)
        assert (result.returncode, result.stdout.decode()) == (1, f"{file}: FAILED\n")
        assert result.stderr == b"hashbench: 1 of 2 files are not what the list says\n"
        file.unlink()
        result = hash_("--check", "--json", roots)
        assert result.returncode == 1
        assert json.loads(result.stdout) == [{"name": str(file), "ok": False}, {"name": str(other), "ok": True}]
        assert f"hashbench: {file}: No such file or directory" in result.stderr.decode()
        file.write_bytes(DATA)


def test_a_list_that_is_none_is_refused(file: Path, tmp_path: Path) -> None:
    assert "line 1 is not one of a root: it is neither ROOT" in the_error(hash_("--check", file))
    (tmp_path / "empty").touch()
    assert the_error(hash_("--check", tmp_path / "empty")).startswith(f"'{tmp_path}/empty' has no lines")
    assert the_error(hash_("--check", "--leaves", file)).startswith("--leaves, --tag, --json and --check cannot be")
    assert the_error(hash_("--quiet", file)).startswith("--quiet can only be used with --check")


def test_roots_as_json(file: Path, tmp_path: Path) -> None:
    result = hash_("--json", file, tmp_path / "missing", "--chunk-size", "128")
    assert result.returncode == 2
    wanted = {"algorithm": "sha256", "chunk_size": 128, "name": str(file), "root": root(DATA, 128)}
    assert json.loads(result.stdout) == [wanted]


@pytest.mark.parametrize("leaves", [[], ["--leaves"]])
def test_a_file_that_shrinks_while_it_is_read_is_refused(leaves: list[str], tmp_path: Path) -> None:
    path = tmp_path / "shrinking"
    path.touch()
    os.truncate(path, 1 << 36)  # takes no space, and far longer than this test to read
    command = [*COMMAND, "hash", "--kernel", "hashlib", "--chunk-size", "1MiB", *leaves, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        while process.poll() is None and psutil.Process(process.pid).io_counters().read_chars < 200 << 20:
            time.sleep(0.01)
        os.truncate(path, 0)
        output, errors = process.communicate()
    result = subprocess.CompletedProcess(command, process.returncode, output, errors)
    assert the_error(result) == f"{path}: the file shrank while it was read"
    assert output == b""


def test_a_missing_framework_is_named_and_breaks_nothing(file: Path, tmp_path: Path) -> None:
    (tmp_path / "pyopencl.py").write_text('raise ImportError("No module named pyopencl")')
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"PYTHONPATH": path}
    error = the_error(in_own_process("hash", "--kernel", "opencl", file, env=environment))
    assert re.search(r"opencl is not available: .*pyopencl.*hashbench\[", error)
    devices = json.loads(in_own_process("devices", "--json", env=environment).stdout)
    assert [device["unavailable"] is None for device in devices if device["kernel"] == "opencl"] == [False]


OUT_OF_MEMORY = """
import resource, sys
from hashbench.cli import main as cli
with open("/proc/self/statm") as statm:
    used = int(statm.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (200 << 20), resource.RLIM_INFINITY))
sys.exit(cli.run(sys.argv[1:]))
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="this system does not report a process's memory")
def test_a_device_out_of_memory_is_reported(file: Path) -> None:
    arguments = ["hash", "--kernel", "hashlib", "--chunk-size", "256MiB", str(file)]
    result = subprocess.run([sys.executable, "-c", OUT_OF_MEMORY, *arguments], capture_output=True, check=False)
    assert re.fullmatch(r"out of memory on .* \(hashlib\): 268,435,456 bytes were asked for", the_error(result))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_output_that_cannot_be_written_is_reported(file: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        for arguments in (["hash", "--kernel", "hashlib", str(file)], ["--help"]):
            result = subprocess.run([*COMMAND, *arguments], stdout=full, stderr=subprocess.PIPE, check=False)
            assert the_error(result) == "No space left on device"


def test_output_that_nobody_reads_is_reported(file: Path) -> None:
    command = [*COMMAND, "hash", "--kernel", "hashlib", "--leaves", str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        errors = process.stderr.read()
    assert the_error(subprocess.CompletedProcess(command, process.returncode, b"", errors)) == "Broken pipe"


def test_an_interrupt_ends_it_on_one_line(file: Path) -> None:
    command = [*COMMAND, "hash", "--kernel", "hashlib", str(file), "-"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    # Where the tests run in the background of a shell, what they start ignores interrupts unless told otherwise.
    with subprocess.Popen(command, preexec_fn=heed_interrupts, **pipes) as process:  # type: ignore[call-overload]
        assert process.stdout.readline().decode() == f"{root(DATA)}  {file}\n"
        process.send_signal(signal.SIGINT)
        try:
            process.wait(timeout=60)
        finally:
            process.kill()
        assert process.stderr.read() == b"hashbench: interrupted\n"
    assert process.returncode == 130


def heed_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_debug_shows_where_an_error_comes_from(file: Path) -> None:
    for arguments in (["--chunk-size", "1", str(file)], [str(file.with_name("missing"))]):
        result = in_process("--debug", "hash", "--kernel", "hashlib", *arguments)
        assert result.returncode == 2
        assert result.stderr.decode().startswith("Traceback")


# What is listed


def test_devices_lists_every_kernel() -> None:
    result = in_process("devices")
    assert result.returncode == 0
    assert {line.split()[1] for line in result.stdout.decode().splitlines() if line.startswith("│")} == set(KERNELS)


def test_devices_as_json_are_those_of_the_kernels() -> None:
    listed = json.loads(in_process("devices", "--json").stdout)
    assert [(d["kernel"], d["id"], d["kind"]) for d in listed] == [
        (device.kernel, device.id, device.kind) for device in selection.devices()
    ]


@pytest.mark.parametrize("arguments", [[], ["--help"], ["hash", "--help"]])
def test_help_is_good(arguments: list[str]) -> None:
    result = in_process(*arguments)
    assert (result.returncode, result.stderr) == (0, b"")
    assert b"Usage: hashbench" in result.stdout


def test_help_says_of_each_command_what_its_own_help_says() -> None:
    listed = in_process("--help").stdout.decode().partition("Commands:\n")[2].splitlines()
    assert [line.split()[0] for line in listed] == list(COMMANDS)
    for name, command in COMMANDS.items():
        text = in_process(name, "--help").stdout.decode()
        assert text.startswith(f"Usage: hashbench {name} ")
        assert text.splitlines()[2].strip() == command.summary
        assert next(line for line in listed if line.split()[0] == name).endswith(f"  {command.summary}")


IMPORTED = """
import json, sys
before = set(sys.modules)
from hashbench.cli.main import run
assert run(["--help"]) == 0
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules.keys() - before} - sys.stdlib_module_names)))
"""


def test_help_imports_nothing_but_click() -> None:
    output = subprocess.check_output([sys.executable, "-c", IMPORTED], text=True)
    assert json.loads(output.splitlines()[-1]) == ["click", "hashbench"]


WITHOUT = """
import sys
from hashbench.cli.main import OF_BENCH, run
for name in OF_BENCH:
    sys.modules[name] = None  # makes its import fail
sys.exit(run(sys.argv[1:]))
"""


@pytest.mark.parametrize("command", [["bench"], ["report"], ["figures"], ["compare", "a", "b"], ["predict"]])
def test_what_needs_the_extra_bench_says_so(command: list[str], tmp_path: Path) -> None:
    arguments = [sys.executable, "-c", WITHOUT, *command]
    result = subprocess.run(arguments, capture_output=True, check=False, cwd=tmp_path)
    assert re.fullmatch(r"\w+ is not installed: install hashbench\[bench\]", the_error(result))
    assert list(tmp_path.iterdir()) == []


# How sizes are written


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [("4096", 4096), ("4KiB", 4096), ("4 kib", 4096), ("1.5 MiB", 3 << 19), ("2GB", 2 * 10**9), ("-64", -64)],
)
def test_sizes_are_read(text: str, nbytes: int) -> None:
    assert parse_size(text) == nbytes


@pytest.mark.parametrize("text", ["", "KiB", "4K", "0.3KiB", "1e3", "4KiBs", "٤"])
def test_what_is_not_a_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size"):
        parse_size(text)


@pytest.mark.parametrize(
    ("nbytes", "text"), [(0, "0"), (64, "64"), (4096, "4KiB"), (5 << 20, "5MiB"), (1 << 41, "2TiB")]
)
def test_sizes_are_written_as_they_are_read(nbytes: int, text: str) -> None:
    assert format_size(nbytes) == text
    assert parse_size(text) == nbytes


def test_a_lack_of_memory_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def without_memory(**arguments: object) -> None:
        raise MemoryError

    monkeypatch.setattr("hashbench.cli.hash.hash_files.callback", without_memory)
    done = in_process("hash", tmp_path)
    assert (done.returncode, done.stderr) == (2, b"hashbench: out of memory\n")
