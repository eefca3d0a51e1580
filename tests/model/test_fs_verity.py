"""Files that the kernel protects are verified without being read, by a list that the manifest vouches for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from command_line import in_process
from stock_formats import fs_verity

from hashbench.hashing.fs_verity_ioctl import NotProtected, NotSupported
from hashbench.model import fs_verity as module

LIST = "fs-verity.txt"
NAMES = ("config.json", "weights.bin", "part/a b")


@dataclass
class Deployed:
    """A model on a machine whose kernel has the digests of `measured`."""

    folder: Path
    monkeypatch: pytest.MonkeyPatch

    @property
    def model(self) -> Path:
        return self.folder / "model"

    def digests(self) -> dict[str, str]:
        return {name: fs_verity((self.model / name).read_bytes(), 4096, b"") for name in NAMES}

    def write_list(self, text: str) -> None:
        """Writes the list, and a manifest that covers it."""
        (self.model / LIST).write_text(text)
        done = in_process("manifest", "--quiet", self.model, "-o", self.folder / "manifest")
        assert done.returncode == 0, done.stderr

    def verify(self, measured: Mapping[str, str | Exception]) -> tuple[int, str, list[str]]:
        """The exit code, what is printed, and the lines on stderr, where the kernel has these digests."""

        def answer(descriptor: int) -> str:
            found = measured[str(Path(f"/proc/self/fd/{descriptor}").readlink().relative_to(self.model))]
            if isinstance(found, Exception):
                raise found
            return found

        self.monkeypatch.setattr(module, "measured", answer)
        done = in_process("verify", self.model, self.folder / "manifest", "--fs-verity", LIST)
        return done.returncode, done.stdout.decode(), done.stderr.decode().splitlines()


@pytest.fixture
def deployed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Deployed:
    found = Deployed(tmp_path.resolve(), monkeypatch)
    (found.model / "part").mkdir(parents=True)
    for number, name in enumerate(NAMES):
        (found.model / name).write_bytes(bytes([number]) * (5000 * number + 1))
    found.write_list("".join(f"{digest} {name}\n" for name, digest in found.digests().items()))
    return found


def test_what_the_kernel_protects_is_verified_and_not_read(deployed: Deployed) -> None:
    digests = deployed.digests()
    # What the kernel would never give is on the disk: nobody notices who does not read it.
    path = deployed.model / "weights.bin"
    path.write_bytes(bytes(path.stat().st_size))
    code, printed, notes = deployed.verify(digests)
    assert code == 0
    assert printed.startswith("verified: 4 files, ")
    assert notes == [
        "not read: 3 files, 15,003 bytes; with fs-verity, the kernel checks every read against 'fs-verity.txt'"
    ]
    done = in_process("verify", deployed.model, deployed.folder / "manifest")
    assert done.stdout.decode().splitlines() == ["differs: weights.bin: other bytes"]


def test_what_the_kernel_does_not_protect_is_not_verified(deployed: Deployed) -> None:
    digests = deployed.digests()
    code, printed, errors = deployed.verify(digests | {"weights.bin": NotProtected("it is not")})
    assert (code, printed) == (1, "")
    assert errors[1:] == ["hashbench: 'weights.bin' is not protected: it is not"]
    other = f"sha256:{'ab' * 32}"
    code, printed, errors = deployed.verify(digests | {"config.json": other})
    assert (code, printed) == (1, "")
    assert errors[1:] == [
        f"hashbench: 'config.json' is protected by another digest, {other}, not {digests['config.json']}"
    ]
    # The same digits by another algorithm are another digest.
    code, printed, errors = deployed.verify({n: d.replace("sha256", "sha512") for n, d in digests.items()})
    assert (code, printed, len(errors)) == (1, "", 3)


def test_where_no_file_can_be_protected_one_line_says_so(deployed: Deployed) -> None:
    code, printed, errors = deployed.verify(dict.fromkeys(NAMES, NotSupported("it has none")))
    assert (code, printed) == (2, "")
    assert errors == [f"hashbench: {deployed.model / NAMES[0]} cannot be protected: it has none"]


def test_a_list_that_the_manifest_does_not_vouch_for_is_refused(deployed: Deployed) -> None:
    path = deployed.model / LIST
    other = f"sha256:{'ab' * 32}"
    path.write_text(path.read_text().replace(deployed.digests()["weights.bin"], other))
    expected = "hashbench: the list of digests 'fs-verity.txt' is not what the manifest says"
    everything = deployed.digests() | {"weights.bin": other}
    assert deployed.verify(everything) == (1, "", [expected])
    path.unlink()
    assert deployed.verify(everything) == (1, "", [expected])


def test_every_file_needs_a_digest(deployed: Deployed) -> None:
    digests = deployed.digests()
    deployed.write_list(f"{digests['config.json']} ./config.json\n")
    code, _, errors = deployed.verify(digests)
    assert code == 1
    assert errors[1:] == [
        "hashbench: 'part/a b' has no digest in 'fs-verity.txt'",
        "hashbench: 'weights.bin' has no digest in 'fs-verity.txt'",
    ]


def test_other_files_count_as_they_do_without_a_list(deployed: Deployed) -> None:
    digests = deployed.digests()
    (deployed.model / "more").write_bytes(b"x")
    (deployed.model / "config.json").unlink()
    code, printed, _ = deployed.verify(digests)
    assert code == 1
    assert printed.splitlines() == ["missing: config.json", "extra: more"]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("sha256:00 config.json\n", "line 1 is not one of a digest"),
        ("# a comment\n", "line 1 is not one of a digest"),
        (f"sha256:{'AB' * 32} config.json\n", "line 1 is not one of a digest"),
        (f"\\sha256:{'ab' * 32} a\\x\n", "line 1 is not one of a digest: a backslash"),
        (f"sha256:{'ab' * 32} b\nsha256:{'cd' * 32} ./b\n", "line 2 has another digest for 'b' than one before"),
    ],
)
def test_lists_that_are_none(deployed: Deployed, text: str, error: str) -> None:
    deployed.write_list(text)
    code, _, (line,) = deployed.verify({})
    assert code == 2
    assert error in line


@pytest.mark.parametrize("name", ["missing", "../manifest", "/etc/hostname", ""])
def test_a_list_that_is_no_file_of_the_manifest(deployed: Deployed, name: str) -> None:
    done = in_process("verify", deployed.model, deployed.folder / "manifest", "--fs-verity", name)
    assert done.returncode == 2
    (line,) = done.stderr.decode().splitlines()
    assert "the manifest has no file" in line
