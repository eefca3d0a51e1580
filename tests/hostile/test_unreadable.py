"""What cannot be read never hides that something else differs, and is never taken for verified."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from command_line import COMMAND, in_process
from model_folders import index_of, safetensors_file, trust, write

import hashbench

FILES = {
    "1.safetensors": safetensors_file({"a": b"first"}),
    "2.safetensors": safetensors_file({"b": b"second", "c": b"third"}),
    "model.safetensors.index.json": index_of({"1.safetensors": ["a"], "2.safetensors": ["b", "c"]}),
    "config.json": b"{}",
    "code/model.py": b"good",
}
Lock = Callable[[Path], None]


@pytest.fixture
def lock(monkeypatch: pytest.MonkeyPatch) -> Lock:
    """Takes away the permission to read a file or folder, which a test that root runs has otherwise."""
    locked: set[str] = set()

    def refusing(name: str) -> None:
        call = getattr(os, name)

        def checked(path: Any, *arguments: Any, **options: Any) -> Any:
            if os.fspath(path) in locked:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), os.fspath(path))
            return call(path, *arguments, **options)

        monkeypatch.setattr(os, name, checked)

    refusing("open")
    refusing("scandir")
    return lambda path: locked.add(str(path))


@pytest.mark.parametrize("options", [(), ("--only-tensors",)], ids=["whole", "only tensors"])
@pytest.mark.parametrize("differs", [False, True], ids=["alone", "beside a change"])
def test_an_unreadable_file_is_told_and_all_others_are_verified(
    tmp_path: Path, lock: Lock, differs: bool, options: tuple[str, ...]
) -> None:
    folder = write(tmp_path / "model", FILES)
    manifest = trust(folder, *options)
    if differs:
        write(folder, {"1.safetensors": safetensors_file({"a": b"evil!"})})
    lock(folder / "2.safetensors")
    verdict = manifest.verdict_on(folder)
    assert verdict.code == (1 if differs else 2)
    assert verdict.names("differs") == (["a"] if differs else [])
    assert verdict.names("missing") == []
    told = "unreadable: 2.safetensors: Permission denied"
    assert verdict.output[-1] == told + ("" if options else ", with 2 tensors")
    assert not any(line.startswith("verified") for line in verdict.output)


@pytest.mark.parametrize("differs", [False, True], ids=["alone", "beside a change"])
def test_what_is_in_an_unreadable_folder_is_not_missing(tmp_path: Path, lock: Lock, differs: bool) -> None:
    folder = write(tmp_path / "model", FILES)
    manifest = trust(folder)
    if differs:
        write(folder, {"config.json": b"[]"})
    lock(folder / "code")
    verdict = manifest.verdict_on(folder)
    assert verdict.code == (1 if differs else 2)
    assert verdict.names("differs") == (["config.json"] if differs else [])
    assert verdict.names("missing") == []
    assert verdict.output[-1] == "unreadable: code/: Permission denied"


def test_an_unreadable_model_has_no_manifest(tmp_path: Path, lock: Lock) -> None:
    folder = write(tmp_path / "model", FILES)
    lock(folder / "config.json")
    lock(folder / "code")
    with pytest.raises(PermissionError, match="code"):
        hashbench.manifest(folder, kernel="hashlib")
    with pytest.raises(PermissionError, match=r"config\.json"):
        hashbench.manifest(folder, kernel="hashlib", ignore=["code"])


def test_a_broken_disk_is_told_as_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path / "model", FILES)
    manifest = trust(folder)
    write(folder, {"config.json": b"[]"})
    bad = (folder / "2.safetensors").stat().st_ino
    read = os.preadv

    def preadv(descriptor: int, *arguments: Any) -> int:
        if os.fstat(descriptor).st_ino == bad:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read(descriptor, *arguments)

    monkeypatch.setattr(os, "preadv", preadv)
    report = hashbench.verify(folder, manifest.path, kernel="hashlib")
    assert (report.ok, report.wrong, report.differs) == (False, True, ("config.json",))
    assert report.unreadable == {"2.safetensors": "Input/output error"}
    assert report.found.keys() == {"1.safetensors", "a", "code/model.py", "config.json", "model.safetensors.index.json"}


def test_the_verdict_for_programs_names_what_is_unreadable(tmp_path: Path) -> None:
    """With real permissions, which the capabilities that are taken away here let root pass."""
    ordinary: list[str] = []
    if os.geteuid() == 0:
        ordinary = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
        if not shutil.which("setpriv") or subprocess.run([*ordinary, "true"], check=False).returncode:
            pytest.skip("setpriv cannot take capabilities away from root here")
    folder = write(tmp_path / "model", FILES)
    manifest = trust(folder)
    for name in ("2.safetensors", "code"):
        (folder / name).chmod(0)
    command = [*ordinary, *COMMAND, "verify", "--json", "--kernel", "hashlib", str(folder), str(manifest.path)]
    done = subprocess.run(command, capture_output=True, check=False)
    (folder / "code").chmod(0o700)
    verdict = json.loads(done.stdout)
    jsonschema_rs.validate(json.loads((files("hashbench.model") / "verdict.schema.json").read_text()), verdict)
    assert done.returncode == 2
    assert not verdict["verified"]
    assert verdict["unreadable"] == {"2.safetensors": "Permission denied", "code/": "Permission denied"}
    assert verdict["counts"] == {"differs": 0, "extra": 0, "ignored": 0, "missing": 0, "unreadable": 2}


def test_nothing_is_attested_or_signed_of_what_nobody_could_read(tmp_path: Path, lock: Lock) -> None:
    pytest.importorskip("cryptography", reason="cryptography is not installed: install hashbench[trust]")
    from authorities import write_keys

    private, _ = write_keys(tmp_path / "keys")
    folder = write(tmp_path / "model", FILES)
    manifest = folder / "manifest.json"
    assert in_process("manifest", folder, "-o", manifest, "--kernel", "hashlib").returncode == 0
    lock(folder / "config.json")
    reason = "hashbench: 'config.json' cannot be read: Permission denied; all else is what the manifest says\n"
    platform = ("--provider", "simulated", "--platform", tmp_path / "platform")
    attest = ("attest", "--manifest", manifest, "--model", folder, "--nonce", "00" * 16, "-o", tmp_path / "evidence")
    for command in (*attest, *platform), ("sign", folder, "--key", private, "--manifest", manifest):
        done = in_process(*command, "--kernel", "hashlib")
        assert (done.returncode, done.stderr.decode()) == (2, reason)
    assert not (tmp_path / "evidence").exists()
    assert not (folder / "model.sig").exists()
