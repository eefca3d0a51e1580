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
from hashbench.model.manifest import Manifest, read_manifest
from hashbench.model.report import Report
from hashbench.torch import verify

REQUESTS = 200
SECONDS_BETWEEN = 0.05


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


class Watch:
    """Verifies a model repeatedly in a thread of its own, until the context ends or there is a reason to stop.

    Attributes:
        stop: is set when the model is damaged or cannot be verified.
        report: the last report; None if the last verification failed.
        error: why it failed.
        rounds: how many verifications succeeded.
    """

    def __init__(self, model: torch.nn.Module, manifest: Manifest, seconds_between: float) -> None:
        self.stop = threading.Event()
        self.report: Report | None = None
        self.error: BaseException | None = None
        self.rounds = 0
        self._model, self._manifest, self._seconds = model, manifest, seconds_between
        # Nothing writes to the weights, so the verification need not wait for the streams that serve requests.
        self._stream = torch.cuda.Stream() if torch.cuda.is_available() else None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            while not self._ended.wait(self._seconds):
                self.report = verify(self._model, self._manifest, stream=self._stream)
                if not self.report.ok:
                    return self.stop.set()
                self.rounds += 1
        except BaseException as error:  # weights that cannot be verified are not served
            self.report, self.error = None, error
            self.stop.set()


def serve(folder: Path, trusted_root: str, damage: bool) -> int:
    """Loads the model, verifies it in place, and serves it under watch."""
    manifest = read_manifest(folder / "model.manifest.json")
    if manifest.root.hex() != trusted_root:
        print("the manifest is not the trusted one")
        return 2
    model = new_model().to("cuda" if torch.cuda.is_available() else "cpu").eval()
    load_model(model, str(folder / "model.safetensors"))

    report = verify(model, manifest)
    print(report)
    if not report.ok:
        return 1

    tokens = torch.arange(16, device=next(model.parameters()).device)
    with torch.inference_mode(), Watch(model, manifest, SECONDS_BETWEEN) as watch:
        served = 0
        while not watch.stop.is_set() and (served < REQUESTS or damage):
            model(tokens)
            served += 1
            if damage and served == REQUESTS // 2:
                model[1].weight.view(torch.uint8)[100, 200] ^= 1  # one bit of 18 million
            watch.stop.wait(0.001)  # until the next request
    if watch.error is not None:
        print(f"stopped: the weights cannot be verified: {type(watch.error).__name__}: {watch.error}")
        return 3
    if watch.stop.is_set():
        print("stopped:", watch.report)
        return 1
    print(f"served {served} requests, verified {watch.rounds} times meanwhile")
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
