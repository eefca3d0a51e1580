"""A process that serves a model and verifies the weights in memory: before the first request, and while it serves.

It runs on a CPU in seconds, with a small model of its own:

    python examples/verify_in_process.py            # serves 200 requests
    python examples/verify_in_process.py --damage   # flips a bit of a weight: the process stops and names the tensor

Exit codes: 0 all requests were served; 1 the weights are not what the manifest says; 2 the manifest is not the trusted
one; 3 the weights could no longer be verified.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
from pathlib import Path

import torch
from safetensors.torch import load_model, save_model

import hashbench
from hashbench.hashing.verification_error import VerificationError
from hashbench.model.manifest import read_manifest
from hashbench.torch import Monitor

REQUESTS = 200

PERIOD = 0.2
"""Seconds in which everything is read once. A minute is usual: this model is small, and the example short."""


def new_model() -> torch.nn.Module:
    """The layers of a small language model."""
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Embedding(1000, 256), torch.nn.Linear(256, 256), torch.nn.Linear(256, 1000))


def publish(folder: Path) -> str:
    """Writes the model and its manifest, once, where the model is made. Returns the root to sign or to pin."""
    save_model(new_model(), str(folder / "model.safetensors"))
    manifest = hashbench.manifest(folder / "model.safetensors")
    (folder / "model.manifest.json").write_bytes(manifest.text())
    return manifest.root.hex()


def serve(folder: Path, trusted_root: str, damage: bool) -> int:
    """Loads the model, verifies it in place, and serves it under watch."""
    manifest = read_manifest(folder / "model.manifest.json")
    if manifest.root.hex() != trusted_root:
        print("the manifest is not the trusted one")
        return 2
    model = new_model().to("cuda" if torch.cuda.is_available() else "cpu").eval()
    load_model(model, str(folder / "model.safetensors"))

    found = threading.Event()
    try:
        monitor = Monitor(model, manifest, period=PERIOD, on_finding=lambda finding: found.set())
    except VerificationError as error:
        print(error)
        return 1
    at_start = monitor.status()
    print(f"verified: {at_start.tensors} tensors, {at_start.nbytes:,} bytes")

    tokens = torch.arange(16, device=next(model.parameters()).device)
    with torch.inference_mode(), monitor:
        served = 0
        while not found.is_set() and monitor.status().running and (served < REQUESTS or damage):
            model(tokens)
            served += 1
            if damage and served == REQUESTS // 2:
                model[1].weight.view(torch.uint8)[100, 200] ^= 1  # one bit of 18 million
            found.wait(0.001)  # until the next request
    status = monitor.status()
    if status.ended is not None:  # weights that cannot be verified are not served
        print(f"stopped: the weights cannot be verified: {status.ended}")
        return 3
    if monitor.findings:
        print("stopped:", monitor.findings[0])
        return 1
    print(f"served {served} requests, verified {status.bytes_read:,} bytes meanwhile")
    return 0


def main() -> int:
    """Publishes the model and serves it, both in one process to keep the example short."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--damage", action="store_true", help="flip a bit of a weight while serving")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        return serve(folder, publish(folder), arguments.damage)


if __name__ == "__main__":
    sys.exit(main())
