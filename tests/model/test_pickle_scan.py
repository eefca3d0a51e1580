"""The memory that a checkpoint's pickle may ask for: in proportion to its size."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import Counter
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hashbench.model import pickle_scan
from hashbench.model.pickle_scan import MAX_SIZE, check_pickle

ORDERED = b"ccollections\nOrderedDict\n"


def checkpoint(content: Any) -> bytes:
    """The pickle that PyTorch writes."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    stream = io.BytesIO()
    torch.save(content, stream)
    with zipfile.ZipFile(stream) as archive:
        return archive.read("archive/data.pkl")


def refused(pickled: bytes) -> str:
    with pytest.raises(ValueError, match="its pickle") as caught:
        check_pickle(pickled)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 400
    return message


@pytest.mark.covers("torch")
def test_what_training_saves_is_accepted() -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    model = torch.nn.TransformerEncoderLayer(8, 2)
    optimizer = torch.optim.Adam(model.parameters(), betas=(0.9, 0.999))
    model(torch.zeros(2, 3, 8)).sum().backward()
    optimizer.step()
    check_pickle(
        checkpoint(
            {
                "model": model.state_dict(),
                "parameters": list(model.parameters()),
                "optimizer": optimizer.state_dict(),
                "float8": torch.zeros(3).to(torch.float8_e4m3fn),
                "values": [
                    torch.device("cpu"),
                    torch.Size([1, 2]),
                    torch.bfloat16,
                    1 << 70,
                    1j,
                    {1, 2},
                    Counter({3: 1}),
                    None,
                    True,
                    "é",
                ],
            }
        )
    )


@pytest.mark.parametrize("called", ["builtins bytearray", "torch FloatTensor", "torch.storage UntypedStorage"])
def test_nothing_that_allocates_by_a_number_is_called(called: str) -> None:
    module, name = called.split()
    pickled = f"\x80\x02c{module}\n{name}\n".encode("latin-1") + b"K\x05\x85R."
    assert f"calls {module}.{name}, which plain tensors do not need" in refused(pickled)
    check_pickle(pickled.replace(b"K\x05\x85R", b""))  # named it may be, as types of storages are


@pytest.mark.parametrize("made", ["builtins set", "__builtin__ set", "collections Counter", "collections OrderedDict"])
def test_no_container_is_made_of_a_text(made: str) -> None:
    module, name = made.split()
    call = f"c{module}\n{name}\n".encode() + b"%b\x85R."
    assert f"makes a {name} of something other than a container" in refused(call % b"X\x02\x00\x00\x00ab")
    check_pickle(call % b"]")


def test_what_is_made_is_not_called() -> None:
    doubled = b"]q\x00" + b"h\x00h\x00\x86q\x00" * 60
    assert "calls something other than a function" in refused(b"\x80\x02" + doubled + b")R.")


@pytest.mark.parametrize(
    "passed",
    [
        ORDERED + b"%b\x85R.",  # an argument
        ORDERED + b")R%bb.",  # a state
        b"}%bK\x01s.",  # a key
        b"}(%bK\x01u.",  # one key of several
    ],
)
def test_what_is_passed_on_counts_as_often_as_it_is(passed: bytes) -> None:
    start = b"\x80\x02)q\x00" + b"h\x00h\x00\x86q\x00" * 40
    assert "passes on more than 4194304 values" in refused(start + passed % b"h\x00")
    nested = b")" + b"\x85" * 70
    assert "nests what it passes on more than 64 deep" in refused(start + passed % nested)
    check_pickle(start + passed % b")")


def test_calls_with_one_long_list_again_and_again_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickle_scan, "_MAX_PASSED", 10_000)
    # The list is in a tuple when it is still empty, and grows later.
    start = b"\x80\x02]q\x00\x85q\x01h\x00(" + b"K\x01" * 1000 + b"e"
    call = ORDERED + b"h\x01R"
    check_pickle(start + call * 9 + b".")
    assert "passes on more than 10000 values" in refused(start + call * 10 + b".")


def test_a_storage_has_a_plain_name() -> None:
    storage = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\n%bX\x03\x00\x00\x00cpuK\x04tQ."
    check_pickle(b"\x80\x02" + storage % b"X\x01\x00\x00\x000")
    assert "not described by a name, a type and a number" in refused(b"\x80\x02" + storage % b"K\x01K\x01\x86")


def test_what_pytorch_does_not_write_is_refused() -> None:
    assert "has the instruction EMPTY_SET" in refused(b"\x80\x02\x8f.")
    assert "has the instruction FRAME" in refused(pickle.dumps([b"x"], protocol=5))
    assert "has the instruction NEWOBJ" in refused(b"\x80\x02" + ORDERED + b")\x81.")
    assert f"up to {MAX_SIZE} are accepted" in refused(bytes(MAX_SIZE + 1))


@settings(max_examples=300)
@given(st.binary(max_size=40), st.binary(max_size=40))
def test_any_bytes_are_looked_through_or_refused(start: bytes, end: bytes) -> None:
    with suppress(ValueError, LookupError, TypeError, AttributeError):  # whoever loads a pickle has to expect any
        check_pickle(start + b"(]q\x00h\x00e}(K\x01h\x00u" + end)
