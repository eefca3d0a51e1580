"""Commands run where little works: with broken frameworks, and signals."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hashbench.hashing import selection
from hashbench.hashing.selection import FallbackWarning, choose, devices_of
from hashbench.kernels import Device, Unavailable, kernel_class
from hashbench.kernels.hashlib_cpu import HashlibCpu


def test_a_framework_that_is_broken_is_unavailable_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> list[Device]:
        raise AttributeError("module 'numpy' has no attribute\n'row_stack'")

    monkeypatch.setattr(kernel_class("opencl"), "devices", broken)
    devices_of.cache_clear()
    try:
        (device,) = devices_of("opencl")
        reason = (
            "its framework is broken (AttributeError: module 'numpy' has no attribute 'row_stack'): install it again"
        )
        assert (device.kernel, device.unavailable) == ("opencl", reason)
        with pytest.raises(Unavailable, match="opencl is not available: its framework is broken"):
            choose("opencl")
        assert "opencl" not in {device.kernel for device in selection.available()}
    finally:
        monkeypatch.undo()
        devices_of.cache_clear()


def test_a_kernel_that_does_not_start_is_replaced_by_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(HashlibCpu):
        def __init__(self, *arguments: object) -> None:
            raise OSError(28, "No space left on device")

    hashlib = HashlibCpu.devices()[0]
    fast = Device("fast", id="0", kind="gpu")
    monkeypatch.setattr(selection, "_by_preference", lambda names: iter([fast, hashlib]))
    monkeypatch.setattr(selection, "kernel_class", lambda name: Broken if name == "fast" else HashlibCpu)
    said = r"fast on 0 cannot be used \(OSError: .*No space left on device\): hashlib on 1-thread is used instead"
    with pytest.warns(FallbackWarning, match=said):
        assert choose().device == hashlib
    monkeypatch.setattr(selection, "_by_preference", lambda names: iter([fast]))
    with pytest.raises(Unavailable, match="fast on 0 cannot be used"):
        choose()


@pytest.mark.parametrize(
    ("module", "error"),
    [("click", "ImportError"), ("numpy", "ImportError"), ("numpy", "MemoryError"), ("jsonschema_rs", "OSError")],
)
def test_a_broken_installation_is_no_verdict_on_a_model(module: str, error: str, tmp_path: Path) -> None:
    program = f"""if True:
        import runpy, sys
        class Broken:
            def find_spec(self, name, path=None, target=None):
                if name.partition(".")[0] == {module!r}:
                    raise {error}("libbroken.so:\\ncannot be loaded")
        sys.meta_path.insert(0, Broken())
        runpy.run_module("hashbench", run_name="__main__", alter_sys=True)
    """
    (tmp_path / "model").write_bytes(b"content")
    (tmp_path / "manifest").write_bytes(b"{{}}")
    arguments = ["verify", str(tmp_path / "model"), str(tmp_path / "manifest")]
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, check=False, text=True)
    assert done.returncode == 2, done.stderr
    assert re.fullmatch(r"hashbench: .+\n", done.stderr), done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_command_that_is_terminated_leaves_nothing_behind(tmp_path: Path, number: signal.Signals) -> None:
    model, output = tmp_path / "model", tmp_path / "output"
    output.mkdir()
    model.write_bytes(b"content")
    program = """if True:
        import sys, time
        from hashbench.cli import main
        from hashbench.hashing.hasher import Hasher
        def roots(*arguments):
            print("hashing", flush=True)
            time.sleep(60)
        Hasher.roots = roots
        main.main()
    """
    arguments = ["manifest", "--kernel", "hashlib", str(model), "-o", str(output / "m"), "--leaves", str(output / "l")]
    with subprocess.Popen([sys.executable, "-c", program, *arguments], stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"hashing\n"
        assert list(output.iterdir())  # the leaf hashes, under a temporary name
        began = time.monotonic()
        process.send_signal(number)
        process.wait(30)
        assert time.monotonic() - began < 30
    assert process.returncode == 128 + number
    assert list(output.iterdir()) == []
