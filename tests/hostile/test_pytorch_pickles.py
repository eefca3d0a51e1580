"""Attacks by the pickles of PyTorch checkpoints: what shows other tensors to one reader than to another.

Each is refused in one line. Beside it stands whether `torch.load` with `weights_only` takes it.
"""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from pytorch_files import (
    ORDERED,
    archive,
    called,
    checkpoint,
    items,
    named,
    number,
    numbers,
    pickled,
    several,
    storage,
    tensor,
    text,
)

from hashbench.model.pytorch_checkpoint import PyTorchError, read_checkpoint

GOOD = np.arange(4, dtype=np.float32).tobytes()
EVIL = np.full(4, 666, np.float32).tobytes()
OTHER = tensor(storage("1"))
SIZES = (number(0), numbers(4), numbers(1))
V2 = "torch._utils._rebuild_tensor_v2"


def whole(value: bytes) -> bytes:
    return b"\x80\2" + value + b"."


def parameter(state: bytes) -> bytes:
    return called("torch._utils._rebuild_parameter_with_state", tensor(), b"\x89", ORDERED, state)


NO_ATTRIBUTES = "sets attributes: accepted is _metadata of an OrderedDict"

# The pickle; why it is refused here; and whether PyTorch takes it.
CASES: dict[str, tuple[bytes, str, bool]] = {
    # Attributes
    "items of an OrderedDict": (
        whole(ORDERED + items({"a": tensor()}) + b"}" + items({"items": OTHER}) + b"b"),
        NO_ATTRIBUTES,
        True,
    ),
    "items of an OrderedDict within": (
        pickled(a=ORDERED + items({"a": tensor()}) + b"}" + items({"items": OTHER}) + b"b"),
        NO_ATTRIBUTES,
        True,
    ),
    "keys of an OrderedDict beside its metadata": (
        whole(ORDERED + items({"a": tensor()}) + b"}" + items({"_metadata": ORDERED, "keys": OTHER}) + b"b"),
        NO_ATTRIBUTES,
        True,
    ),
    "attributes as pairs": (
        whole(ORDERED + items({"a": tensor()}) + b"]" + several(text("items"), OTHER) + b"ab"),
        NO_ATTRIBUTES,
        True,
    ),
    "tensors in metadata": (
        whole(ORDERED + items({"a": tensor()}) + b"}" + items({"_metadata": ORDERED + items({"a": OTHER})}) + b"b"),
        "it has tensors in the attribute _metadata",
        True,
    ),
    "attributes of a Counter": (
        whole(called("collections.Counter", b"}") + items({"a": tensor()}) + b"}" + items({"items": OTHER}) + b"b"),
        NO_ATTRIBUTES,
        True,
    ),
    "a tensor that is set": (
        pickled(a=tensor() + several(storage("1"), *SIZES) + b"b"),
        NO_ATTRIBUTES,
        True,
    ),
    "data of a parameter": (
        pickled(a=parameter(b"}" + items({"data": OTHER}))),
        "the tensor 'a' has attributes of its own: it is not accepted",
        True,
    ),
    "data_ptr of a parameter": (
        pickled(a=parameter(b"}" + items({"data_ptr": number(0)}))),
        "the tensor 'a' has attributes of its own",
        True,
    ),
    "attributes in slots": (
        pickled(a=parameter(several(b"N", b"}" + items({"data": OTHER})))),
        "the tensor 'a' has attributes of its own",
        True,
    ),
    "backward hooks": (
        pickled(a=called(V2, storage(), *SIZES, b"\x89", ORDERED + items({"x": number(1)}))),
        "gives a tensor backward hooks",
        True,
    ),
    "backward hooks that are added later": (
        pickled(a=called(V2, storage(), *SIZES, b"\x89", ORDERED + b"q\0"), b=b"h\0" + items({"x": number(1)})),
        "gives a tensor backward hooks",
        True,
    ),
    "backward hooks of another kind": (
        pickled(a=called(V2, storage(), *SIZES, b"\x89", text("x"))),
        "gives a tensor backward hooks",
        True,
    ),
    "a tensor that is conjugated": (
        pickled(a=tensor(storage("0", "ComplexFloatStorage", 2), 0, (2,), (1,), b"}" + items({"conj": b"\x88"}))),
        "the tensor 'a' is conjugated or negated",
        True,
    ),
    "a tensor of a subclass": (
        pickled(
            a=called(
                "torch._tensor._rebuild_from_type_v2",
                *(named(V2), named("torch.Tensor"), several(storage(), *SIZES, b"\x89", ORDERED)),
                b"}" + items({"data": OTHER}),
            )
        ),
        "the tensor 'a' is of a subclass",
        True,
    ),
    # Keys
    "a key twice": (whole(b"}" + items({"a": tensor()}) + items({"a": OTHER}) + b""), "sets the key 'a' twice", True),
    "a key twice at once": (
        whole(b"}(" + text("a") + tensor() + text("a") + OTHER + b"u"),
        "sets the key 'a' twice",
        True,
    ),
    "a key twice, one by one": (
        whole(b"}" + text("a") + tensor() + b"s" + text("a") + OTHER + b"s"),
        "sets the key 'a' twice",
        True,
    ),
    "1 and True": (whole(b"}(" + number(1) + tensor() + b"\x88" + OTHER + b"u"), "a key that is neither text", True),
    "1 and 1.0": (
        whole(b"}(" + number(1) + tensor() + b"G\x3f\xf0\0\0\0\0\0\0" + OTHER + b"u"),
        "a key that is neither text",
        True,
    ),
    "1 and complex 1": (
        whole(b"}(" + number(1) + tensor() + called("builtins.complex", number(1), number(0)) + OTHER + b"u"),
        "a key that is neither text",
        True,
    ),
    "a key of many digits": (whole(b"}" + number(1 << 64) + tensor() + b"s"), "a key that is neither text", True),
    "a key that is not Unicode": (pickled(**{"\ud800": tensor()}), "a key that is not valid Unicode", True),
    "a key that is a tuple": (whole(b"}" + numbers(1) + tensor() + b"s"), "a key that is neither text", True),
    "a key that is a tensor": (whole(b"}" + OTHER + tensor() + b"s"), "a key that is neither text", True),
    "a key without a value": (whole(b"}(" + text("a") + b"u"), "its pickle is not valid", False),
    # Storages
    "one storage by two dtypes": (
        pickled(a=tensor(storage("0", "IntStorage")), b=tensor()),
        "describes the storage '0' in two ways",
        True,
    ),
    "one storage of two sizes": (
        pickled(a=tensor(storage(numel=2), 0, (2,)), b=tensor()),
        "describes the storage '0' in two ways",
        False,
    ),
    "a storage without bytes": (
        pickled(a=tensor(storage(location="meta"))),
        "its storage '0' is on the device 'meta'",
        True,
    ),
    "a key with a null": (
        pickled(a=tensor(storage("0\0x"))),
        "a storage that is not described as torch.save does it",
        True,
    ),
    "a key that is a path": (
        pickled(a=tensor(storage("0/../0"))),
        "a storage that is not described as torch.save does it",
        False,
    ),
    "a key of bytes": (
        pickled(
            a=tensor(several(text("storage"), named("torch.FloatStorage"), number(0), text("cpu"), number(4)) + b"Q")
        ),
        "a storage that is not described as torch.save does it",
        True,
    ),
    "a storage as a list": (
        pickled(
            a=tensor(
                b"](" + text("storage") + named("torch.FloatStorage") + text("0") + text("cpu") + number(4) + b"eQ"
            )
        ),
        "a storage that is not described as torch.save does it",
        False,
    ),
    "a storage of a number that is true": (
        pickled(
            a=tensor(several(text("storage"), named("torch.FloatStorage"), text("0"), text("cpu"), b"\x88") + b"Q")
        ),
        "a storage that is not described as torch.save does it",
        False,
    ),
    "a storage and no tensor": (pickled(a=storage()), "'a' is a storage and not a tensor", True),
    # Views
    "a tensor beyond its storage": (
        pickled(a=tensor(shape=(5,))),
        "the tensor 'a' reaches to byte 20 of its storage, which has 16",
        False,
    ),
    "a tensor that begins beyond its storage": (
        pickled(a=tensor(offset=5, shape=(1,))),
        "the tensor 'a' reaches to byte 24 of its storage",
        False,
    ),
    "a stride beyond the storage": (
        pickled(a=tensor(shape=(2,), stride=(4,))),
        "the tensor 'a' reaches to byte 20 of its storage",
        False,
    ),
    "a negative stride": (
        pickled(a=tensor(offset=3, stride=(-1,))),
        "the tensor 'a' has a negative length, stride or offset",
        False,
    ),
    "a negative offset": (pickled(a=tensor(offset=-1)), "the tensor 'a' has a negative length, stride", False),
    "a negative length": (pickled(a=tensor(shape=(-4,))), "the tensor 'a' has a negative length, stride", False),
    "an offset that overflows": (
        pickled(a=tensor(offset=(1 << 62) + 1)),
        "the tensor 'a' reaches to byte",
        False,
    ),
    "lengths whose product overflows": (
        pickled(a=tensor(shape=(1 << 32, 1 << 32, 4), stride=(0, 0, 1))),
        "the tensor 'a' is not accepted: the shape has more than 2^60 bytes",
        False,
    ),
    "a length beyond 64 bits": (
        pickled(a=tensor(shape=(1 << 64,), stride=(0,))),
        "the tensor 'a' has a negative length, stride or offset",
        False,
    ),
    "no stride": (pickled(a=tensor(stride=())), "not a stride for each dimension", True),
    "65 dimensions": (
        pickled(a=tensor(shape=(1,) * 65, stride=(1,) * 65)),
        "the tensor 'a' has more than 64 dimensions",
        True,
    ),
    "a length that is true": (
        pickled(a=called(V2, storage(), number(0), several(b"\x88"), numbers(1), b"\x89", ORDERED)),
        "the tensor 'a' has a negative length, stride or offset",
        False,
    ),
    "a shape that is a list": (
        pickled(a=called(V2, storage(), number(0), b"]", b")", b"\x89", ORDERED)),
        "a tensor or parameter that is not described as torch.save does it",
        True,
    ),
    "an expanded tensor": (
        pickled(a=tensor(shape=(1 << 40,), stride=(0,))),
        "the tensor 'a' and others are not contiguous, and together larger than the file",
        True,
    ),
    # Values
    "a tensor in a set": (
        pickled(a=called("builtins.set", b"]" + tensor() + b"a")),
        "makes a set of what is not a list of plain values",
        True,
    ),
    "a size that is a tensor": (
        pickled(a=called("torch.Size", tensor(storage("0", "LongStorage", 2), 0, (2,)))),
        "makes a torch.Size of what is not a tuple",
        True,
    ),
    "an OrderedDict of pairs": (
        pickled(a=called("collections.OrderedDict", b"]" + several(text("a"), tensor()) + b"a")),
        "makes an OrderedDict with arguments",
        True,
    ),
    "a Counter of a list": (
        pickled(a=called("collections.Counter", b"]" + OTHER + b"a")),
        "makes a Counter of what is not a dict",
        True,
    ),
    # Programs
    "a function that is not plain": (pickled(a=called("os.mkdir", text("x"))), "its pickle needs 'os.mkdir'", False),
    "a function that allocates": (
        pickled(a=called("builtins.bytearray", number(1 << 20))),
        "makes bytes of what is not a text and latin1",
        True,
    ),
    "a tensor that allocates": (
        pickled(a=called("torch.FloatTensor", number(1))),
        "its pickle needs 'torch.FloatTensor'",
        True,
    ),
    "a storage that allocates": (
        pickled(a=called("torch.storage.UntypedStorage", number(1))),
        "calls something that plain tensors do not need to be called",
        True,
    ),
    "a call of a result": (pickled(a=ORDERED + b")R"), "calls something that plain tensors do not need", False),
    "a global of one letter too many": (
        pickled(a=named("torch." + "x" * 200)),
        "a global without a name, or with one that is too long",
        False,
    ),
    "values after the end": (pickled(a=tensor()) + b"N.", "more than one object, or bytes after its end", True),
    "two objects": (whole(b"}" + items({"a": OTHER}) + b"}" + items({"a": tensor()})), "more than one object", True),
    "a mark that stays": (whole(b"}(" + b"}" + items({"a": tensor()})), "more than one object", True),
    "no end": (pickled(a=tensor())[:-1], "its pickle is not valid", False),
    "nothing": (b"", "its pickle is not valid", False),
    "a value from nowhere": (whole(b"h\0"), "its pickle is not valid", False),
    "items of a list": (whole(b"]" + items({"a": tensor()})), "sets items of what is not a dict", False),
    "an item of a dict": (whole(b"}" + tensor() + b"a"), "appends to what is not a list", False),
    "a text that is not UTF-8": (whole(b"X\1\0\0\0\xff"), "a text that is not UTF-8", False),
    "another protocol": (pickled(a=tensor()).replace(b"\x80\2", b"\x80\4", 1), "not of protocol 2", True),
    "a later instruction": (whole(b"\x8f"), "has the byte 0x8f at 2, which is not an instruction", True),
    "an instruction of today's pickle": (pickle.dumps({"a": 1}, protocol=5), "not of protocol 2", False),
    "a text of Python 2": (
        whole(b"U\1a"),
        "has the byte 0x55 at 2, which is not an instruction",
        True,
    ),
}


@pytest.mark.covers("torch")
@pytest.mark.parametrize(("data", "reason", "taken"), CASES.values(), ids=CASES)
@pytest.mark.filterwarnings("ignore")
def test_a_pickle_that_hides_tensors_is_refused(tmp_path: Path, data: bytes, reason: str, taken: bool) -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed")
    path = tmp_path / "model.pt"
    path.write_bytes(archive(checkpoint(data, {"0": GOOD, "1": EVIL})))
    with pytest.raises(PyTorchError) as caught:
        read_checkpoint(path)
    message = str(caught.value)
    assert reason in message
    assert len(message.splitlines()) == 1
    assert len(message) < 400 + len(str(path))
    assert takes(path) == taken


def takes(path: Path) -> bool:
    """Whether PyTorch loads a file, whatever it finds in it."""
    import torch

    try:
        torch.load(path, weights_only=True, map_location="cpu")
    except Exception:  # whatever it raises
        return False
    return True
