"""PyTorch models, hashed in place: the manifest of what is in memory, and verification against a manifest.

Tensors in GPU memory are hashed there, through their pointers, all of one device in one call; only roots are copied. A
call needs extra GPU memory for one digest per chunk (0.8 % of the model with SHA-256 and chunks of 4 KiB). If less is
free, the tensors are hashed in several calls. CuPy keeps that memory for the next call. Tensors in host memory go
through the fastest CPU kernel, in bounded memory.

A tensor's root is that of its bytes as safetensors stores them: little-endian and row-major. So it is the root of the
same tensor in its file, whatever its strides in memory. A tensor that is not contiguous is gathered piece by piece, in
at most 128 MiB of extra memory, or as much as one chunk needs if that is more.

GPUs are those of PyTorch's devices "cuda", NVIDIA's and AMD's, and "xpu", Intel's. On Intel's none of this was tried.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace

from hashbench.kernels import algorithm_named, check_chunk_size
from hashbench.model.manifest import Manifest, TensorEntry
from hashbench.model.report import Report, compare
from hashbench.model.strict_json import quoted
from hashbench.torch.devices import Stream
from hashbench.torch.held import Held, Model, Names, held, matcher
from hashbench.torch.mapped import mapped_files
from hashbench.torch.places import roots_by_memory
from hashbench.torch.tensors import InMemory, TensorError

_SHOWN = 8  # components in one line


def manifest(
    module_or_state_dict: Model,
    *,
    algorithm: str = "sha256",
    chunk_size: int = 4096,
    names: Names = None,
    ignore: Iterable[str] = (),
    everything: bool = False,
    stream: Stream | None = None,
) -> Manifest:
    """The manifest of the tensors of a module, hashed in place.

    A module's parameters and persistent buffers have an entry, under the names that its state dict would have for them
    without wrappers: torch.compile, DistributedDataParallel and the like are seen through. Tied weights have an entry
    under each name, and are hashed once. A tensor subclass that wraps others, as of torchao, has an entry for each of
    these. A module's extra state has none, unless it is a tensor; nor have numbers and text in a state dict.

    Args:
        module_or_state_dict: the module, or tensors by name. Nothing may write to them until the call returns.
        algorithm: "sha256" or "sha384".
        chunk_size: bytes of a leaf, a positive multiple of 64.
        names: how the model's names become the manifest's: a function, or a prefix to remove.
        ignore: globs of names, as the manifest would have them, that are left out.
        everything: whether tensors that no file has have entries too, for a manifest of a model that runs:
            non-persistent buffers, and plain attributes of modules.
        stream: the call waits for the work that was queued before it on this stream, of torch.cuda or torch.xpu. None,
            and other devices than the stream's, mean the device's current stream.

    Returns:
        The manifest, with the names that dtypes have in safetensors.

    Raises:
        TypeError: `module_or_state_dict` is neither, `names` gives no string, or `stream` is not a stream.
        ValueError: `algorithm` or `chunk_size` is not accepted, where chunks of tensors in host memory have 256 MiB at
            most; two tensors have one name; or the model has no tensors, or none with bytes.
        TensorError: a tensor has no bytes (it is on the meta device, or lazy), is on a device other than cpu, cuda and
            xpu, is sparse, is sharded, wraps others that it does not name, has a dtype that safetensors does not have,
            or is not what the module's code reads.
        Unavailable: tensors are on a GPU, and none of CuPy, numba-cuda and Triton can be used; on Intel's, Triton.
        OutOfDeviceMemory: a GPU has no room for the digests of one tensor's chunks.
    """
    algorithm, chunk_size = algorithm_named(algorithm).name, check_chunk_size(chunk_size)
    found, _ = _without(held(module_or_state_dict, names, everything=everything), matcher(ignore))
    if found.refused:
        raise grouped(found.refused)[0]
    if not any(tensor.nbytes for tensor in found.tensors.values()):
        raise ValueError(f"the model has no tensors{' with bytes' if found.tensors else ''}: there is nothing to hash")
    entries = entries_of(found.tensors, algorithm, chunk_size, stream)
    return Manifest(algorithm, chunk_size, tuple(entries.values()))


def verify(
    module_or_state_dict: Model,
    manifest: Manifest,
    *,
    component: str = "",
    names: Names = None,
    ignore: Iterable[str] = (),
    everything: bool = False,
    stream: Stream | None = None,
) -> Report:
    """Verifies the tensors of a module against a manifest, in place.

    Of a module, the memory that its parameters and buffers are in is verified, whatever its state dict would say. Files
    that the manifest lists are not in memory: they are not verified, and neither are tensors of other components.

    A tensor that the manifest does not list is extra, unless it is tied to one that the manifest lists: it has the same
    memory, dtype and shape, so it is verified too. Model files store tied weights under one name, while modules have
    them under several. What wrappers add to names makes no difference: torch.compile, DistributedDataParallel,
    AveragedModel, PEFT. A tensor that cannot be hashed is a problem in the report; all others are verified.

    Args:
        module_or_state_dict: as for `manifest`.
        manifest: made from the model's files, or by `manifest`. It determines algorithm and chunk size.
        component: which tensors of the manifest the module has: those with plain names, or those whose names begin with
            this path, such as "unet" in a pipeline of diffusers (`hashbench.model.components`).
        names: how the model's names become the manifest's: a function, or a prefix to remove.
        ignore: globs of names, as the manifest has them or would: such tensors of the model are neither verified nor
            extra, and such tensors of the manifest are not missing. The report says so.
        everything: whether non-persistent buffers and attributes of modules are extra if the manifest does not list
            them. Those that it lists are verified in any case.
        stream: as for `manifest`.

    Returns:
        The report: verify only `report.ok`.

    Raises:
        TypeError: `manifest` is not a manifest, or as for `manifest`.
        ValueError: the manifest has no tensors of the component; two tensors have one name; or a tensor is in host
            memory, and the manifest's chunks are larger than 256 MiB.
        Unavailable, OutOfDeviceMemory: as for `manifest`.
    """
    expected = tensors_of(manifest, component)
    left_out = matcher(ignore)
    found, ignored = _without(
        held(module_or_state_dict, names, expected.by_name.keys(), everything=everything), left_out
    )
    tensors = found.tensors
    if unlisted := tensors.keys() - expected.by_name.keys():
        verified = {tensor.content for name, tensor in tensors.items() if name not in unlisted}
        tied = {name for name in unlisted if tensors[name].content in verified}
        tensors = {name: tensor for name, tensor in tensors.items() if name not in tied}
    report = compare(expected, entries_of(tensors, manifest.algorithm, manifest.chunk_size, stream))
    not_compared = [name for name in report.missing if left_out(name)]
    return replace(
        report,
        missing=tuple(name for name in report.missing if name not in found.refused and not left_out(name)),
        ignored=tuple(sorted(ignored - set(not_compared))),
        notes=(*_not_compared(not_compared), *_mapped(tensors)),
        problems=tuple(map(str, grouped(found.refused))),
        root=manifest.root,
    )


def tensors_of(manifest: Manifest, component: str) -> Manifest:
    """The part of a manifest that lists a component's tensors, by their names in the component.

    Raises:
        TypeError: it is not a manifest.
        ValueError: it has none.
    """
    if not isinstance(manifest, Manifest):
        raise TypeError(
            f"{type(manifest).__name__} is not accepted: pass what hashbench.model.manifest.read_manifest() returns"
        )
    expected = manifest.of_component(component)
    if not expected.entries:
        named = f"the component {component!r}" if component else "a model at its top"
        listed = ", ".join(map(quoted, manifest.components[:_SHOWN]))
        more = " and more" if len(manifest.components) > _SHOWN else ""
        those = f", but of {listed}{more}" if listed else ""
        raise ValueError(f"the manifest has no tensors of {named}{those}: name the component that the module is")
    return expected


def _without(found: Held, left_out: Callable[[str], bool]) -> tuple[Held, set[str]]:
    """What is held but for names that are left out, and these."""
    ignored = {name for name in (*found.tensors, *found.refused) if left_out(name)}
    if not ignored:
        return found, ignored
    return (
        Held(
            {name: tensor for name, tensor in found.tensors.items() if name not in ignored},
            {name: refusal for name, refusal in found.refused.items() if name not in ignored},
        ),
        ignored,
    )


def entries_of(
    tensors: Mapping[str, InMemory], algorithm: str, chunk_size: int, stream: Stream | None
) -> dict[str, TensorEntry]:
    """The entries of tensors by name, hashed in place.

    Raises:
        TypeError, Unavailable, OutOfDeviceMemory: as for `manifest`.
    """
    roots = roots_by_memory(tensors.values(), algorithm, chunk_size, stream)
    return {
        name: TensorEntry(name, found.dtype, tuple(found.shape), found.nbytes, roots[found.memory])
        for name, found in tensors.items()
    }


def grouped(refused: Mapping[str, str]) -> list[TensorError]:
    """One error for each reason why tensors are refused, with the name of the first."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in refused.items():
        by_reason.setdefault(reason, []).append(name)
    return [TensorError(names[0], reason, len(names) - 1) for reason, names in by_reason.items()]


def _not_compared(names: Collection[str]) -> list[str]:
    if not names:
        return []
    return [f"not compared, as `ignore` says: {len(names):,} tensors that the manifest lists"]


def _mapped(tensors: Mapping[str, InMemory]) -> list[str]:
    """A line for the files that tensors are mapped from."""
    paths = list(mapped_files(tensors.values()).values())
    if not paths:
        return []
    files, many = sorted(set(paths)), len(paths) > 1
    more = f" and {len(files) - 1:,} more" if len(files) > 1 else ""
    return [
        f"{len(paths):,} tensor{'s are' if many else ' is'} mapped from {files[0]}{more}: a change there changes "
        f"{'them' if many else 'it'} after this verdict; hashbench.torch.load gives memory of its own"
    ]
