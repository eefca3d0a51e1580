r"""The load format `hashbench` of vLLM: it serves no weight that was not verified where it was loaded.

vLLM finds `register` through the entry point `vllm.general_plugins`. Then

    vllm serve MODEL --load-format hashbench \
        --model-loader-extra-config '{"manifest": "model.manifest.json", "root": "HEX"}'

loads MODEL by `hashbench.torch.iterate` to the device of each worker.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from hashbench.hashing.verification_error import VerificationError
from hashbench.model.manifest import Manifest, read_manifest
from hashbench.torch.loading import Named, iterate

FORMAT = "hashbench"
"""The name of the load format."""

_OVERRIDDEN = ("_get_weights_iterator", "_prepare_weights", "load_weights")
"""What of vLLM's loader is used or overridden. Were one of another name, vLLM would load weights past what is here."""

log = logging.getLogger(__name__)


def register() -> None:
    """Registers the load format, as vLLM asks each plug-in to do in each of its processes.

    A vLLM whose loader is another gets a warning, and no load format: it does not know the name then, and serves
    without it as if this package were not installed.
    """
    try:
        from vllm.model_executor.model_loader import register_model_loader
        from vllm.model_executor.model_loader.default_loader import DefaultModelLoader
    except ImportError as error:
        log.warning("the load format %s is not there: this vLLM has another loader (%s)", FORMAT, error)
        return
    if missing := [name for name in _OVERRIDDEN if not hasattr(DefaultModelLoader, name)]:
        log.warning("the load format %s is not there: this vLLM's loader has no %s", FORMAT, missing[0])
        return
    register_model_loader(FORMAT)(loader_class(DefaultModelLoader))


def loader_class(default: Any) -> Any:
    """The loader, made from vLLM's `DefaultModelLoader`, of which it keeps all but how weights are read."""

    class VerifiedModelLoader(default):  # type: ignore[misc]
        """Loads safetensors files, and hands out the tensors that are what the manifest says."""

        counter_before_loading_weights: float
        handed_out: bool

        def __init__(self, load_config: Any) -> None:
            options = dict(load_config.model_loader_extra_config or {})
            self.manifest = trusted_manifest(options.pop("manifest", None), options.pop("root", None))
            # It finds the files as for the format whose files it reads; and it does not know these options.
            super().__init__(replace(load_config, load_format="safetensors", model_loader_extra_config=options))

        def load_weights(self, *arguments: Any, **options: Any) -> Any:
            self.handed_out = False
            loaded = super().load_weights(*arguments, **options)
            if not self.handed_out:
                raise VerificationError(f"this vLLM loaded weights that the load format {FORMAT} did not hand out")
            return loaded

        def _get_weights_iterator(self, source: Any) -> Iterator[Named]:
            self.handed_out = True
            if source.subfolder is not None:
                raise ValueError(f"weights in a subfolder are not accepted by the load format {FORMAT}")
            folder, files, _, _ = self._prepare_weights(
                source.model_or_path,
                source.subfolder,
                source.revision,
                source.fall_back_to_pt,
                source.allow_patterns_overrides,
            )
            if self.counter_before_loading_weights == 0.0:
                self.counter_before_loading_weights = perf_counter()
            names = names_in(self.manifest, {Path(file).name for file in files})
            for name, tensor in iterate(folder, self.manifest, device=_device(), names=names):
                yield source.prefix + name, tensor

    return VerifiedModelLoader


def trusted_manifest(path: Any, root: Any) -> Manifest:
    """The manifest that the options name.

    Args:
        path: the option "manifest".
        root: the option "root".

    Raises:
        ValueError: an option is missing.
        VerificationError: the manifest has another root.
        OSError, ManifestError: it cannot be read.
    """
    for name, value in {"manifest": path, "root": root}.items():
        if not isinstance(value, str):
            raise ValueError(f"the load format {FORMAT} needs the extra config {name!r}, a string")
    manifest = read_manifest(path)
    if manifest.root.hex() != root.lower():
        raise VerificationError(f"{path} is not trusted: its root is {manifest.root.hex()}, not {root}")
    return manifest


def names_in(manifest: Manifest, files: set[str]) -> list[str]:
    """The tensors of the files that vLLM found, which must be all of the model's tensors.

    Which files those are is what an index says that nobody verified. vLLM leaves what no file has as it was allocated.

    Raises:
        VerificationError: a file is not in the manifest, or a file with tensors of the model is not among them.
    """
    plain: Mapping[str, Any] = manifest.of_component("").by_name
    if not manifest.files:
        return list(plain)
    if unknown := files - {file.path for file in manifest.files}:
        raise VerificationError(f"{min(unknown)!r} is not in the manifest")
    named = [tensor for tensor in manifest.tensors if tensor.name in plain]
    if left_out := {tensor.file for tensor in named if tensor.file} - files:
        raise VerificationError(f"{min(left_out)!r} has tensors of the model, and vLLM does not load it")
    return [tensor.name for tensor in named]


def _device() -> torch.device:
    """The device of this worker, which vLLM has made the current one."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
