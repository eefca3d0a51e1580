"""The commands of inclusion proofs: `prove` makes one, and `check-proof` verifies it against a trusted root."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click
import numpy as np

from hashbench.cli.documents import manifest_from, proof_from
from hashbench.cli.messages import say
from hashbench.cli.options import PATH, ROOT, device_option, json_option, kernel_option, quiet_option
from hashbench.cli.output_file import check_output
from hashbench.cli.progress import shown
from hashbench.hashing.atomic_write import write_atomically
from hashbench.hashing.hasher import Hasher
from hashbench.hashing.selection import choose
from hashbench.kernels import Bytes, algorithm_named
from hashbench.model.located import locate
from hashbench.model.manifest import Manifest
from hashbench.model.proofs import (
    NotProvenError,
    Proof,
    ProofError,
    bytes_in,
    check_chunk,
    prove,
    prove_chunk,
    read_proof,
)
from hashbench.model.sidecar import opened_sidecar


@click.command("prove")
@click.argument("manifest", type=PATH)
@click.argument("name")
@click.option("-o", "--output", type=PATH, help="The proof's file; default: standard output.")
@click.option("--chunk", type=click.IntRange(min=0), help="Prove this chunk too, counted from 0.")
@click.option("--model", type=PATH, help="With --chunk: the model, in which NAME is hashed.")
@click.option("--leaves", "sidecar", type=PATH, help="With --chunk: the hashes of all chunks, instead of the model.")
@kernel_option
@device_option
def write_proof(
    manifest: Path,
    name: str,
    output: Path | None,
    chunk: int | None,
    model: Path | None,
    sidecar: Path | None,
    kernel: str | None,
    device: str | None,
) -> None:
    """Write an inclusion proof of a tensor, file or chunk.

    It proves that the tensor or file NAME is in the model of MANIFEST (RFC 9162, section 2.1.3). Whoever trusts the
    model's root verifies it with `hashbench check-proof`, without the manifest or the model. MANIFEST may be -, which
    is standard input.

    Exit codes: 0 the proof is written; 1 NAME in the model is not what the manifest says; 2 a file or the call is not
    usable.
    """
    if (chunk is not None) != bool(model or sidecar) or (model and sidecar):
        raise click.UsageError("--chunk needs either --model or --leaves, which cannot be used without it")
    if output == Path("-"):
        output = None
    if output:
        check_output(output, "proof", _is_proof)
    expected = manifest_from(manifest)
    proof = prove(expected, name)
    if chunk is not None:
        check_chunk(proof, chunk)
        if sidecar:
            with opened_sidecar(sidecar, expected) as leaf_hashes:
                leaves = leaf_hashes.leaves(name)
        else:
            assert model is not None
            leaves = _leaves(model, expected, proof, kernel, device)
        proof = prove_chunk(proof, chunk, leaves)
    if output:
        write_atomically(output, proof.text())
    else:
        sys.stdout.buffer.write(proof.text())


@click.command("check-proof")
@click.argument("proof_path", metavar="PROOF", type=PATH)
@click.option("--root", type=ROOT, required=True, help="The model's root, from a trusted source.")
@click.argument("data", type=PATH, required=False)
@json_option
@quiet_option
@kernel_option
@device_option
def check_proof(
    proof_path: Path,
    root: bytes,
    data: Path | None,
    as_json: bool,
    quiet: bool,
    kernel: str | None,
    device: str | None,
) -> None:
    """Verify an inclusion proof against a trusted root.

    DATA is a file of the proven bytes, of all bytes of the tensor or file of which a chunk is proven, or the model's
    file with the tensor. Without DATA, only the record is verified: name, dtype, shape, place and root of a tensor, or
    path, size and root of a file. Of a file that holds tensors, the root is that of all its other bytes.

    PROOF may be -, which is standard input.

    Exit codes: 0 the proof is valid; 1 it is not, or DATA is not what it proves; 2 a file or the call is not usable.
    """
    proof = proof_from(proof_path)
    size = algorithm_named(proof.algorithm).digest_size
    if len(root) != size:
        raise click.UsageError(f"--root has {len(root)} bytes, but the proof's algorithm {proof.algorithm} has {size}")
    proof.check_record(root)
    if data is None:
        text = f"the record of {proof.named}; no data were checked"
    else:
        source = bytes_in(data, proof)
        hasher = Hasher(choose(kernel, device, proof.algorithm, source.nbytes), proof.chunk_size)
        with shown(str(data)) as progress:
            proof.check_bytes(hasher.roots([source], progress)[0])
        text = f"{proof.subject}, {proof.nbytes:,} bytes"
    if as_json:
        proven = {"start": proof.start, "bytes": proof.nbytes} if data else {}
        click.echo(json.dumps({"proven": True, "record": proof.entry.fields(), "data": bool(data), **proven}, indent=2))
    elif not quiet:
        say(f"proven: {text}")


def _is_proof(path: Path) -> bool:
    try:
        read_proof(path)
    except ProofError:
        return False
    return True


def _leaves(model: Path, manifest: Manifest, proof: Proof, kernel: str | None, device: str | None) -> Bytes:
    """The leaf hashes of the tensor or file of a proof in a model: uint8, shape (chunks, digest size)."""
    part = next((part for part in locate(model, manifest).parts if part.entry.name == proof.entry.name), None)
    if part is None:
        raise NotProvenError(f"{model} has no {proof.named} of the kind and size in the manifest")
    hasher = Hasher(choose(kernel, device, proof.algorithm, part.source.nbytes), proof.chunk_size)
    with shown(proof.entry.name) as progress:
        return np.concatenate([piece.hashes for piece in hasher.leaves([part.source], progress)])
