"""Attestation: `attest` makes evidence that a model was verified, and `appraise` says what evidence proves."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import hashbench
from hashbench.cli.exit_codes import CHECK_FAILED
from hashbench.cli.messages import say
from hashbench.cli.options import PATH, device_option, json_option, kernel_option, quiet_option
from hashbench.cli.output_file import check_output
from hashbench.cli.progress import shown
from hashbench.hashing.atomic_write import write_atomically
from hashbench.hashing.opening import read_regular
from hashbench.model.disk import check_decided
from hashbench.model.manifest import Manifest, read_manifest
from hashbench.model.report import Report, bounded
from hashbench.model.strict_json import loads

if TYPE_CHECKING:
    from hashbench.trust.attestation import Provider, Verdict


@click.command("attest")
@click.option("--manifest", "manifest_path", type=PATH, required=True, help="The model's manifest.")
@click.option("--nonce", required=True, help="The verifier's nonce: 16 to 64 bytes in hexadecimal digits.")
@click.option("-o", "--output", type=PATH, required=True, help="The folder to write the evidence to.")
@click.option("--model", type=PATH, help="Verify this model on disk.")
@click.option(
    "--module",
    "factory",
    metavar="MODULE:NAME",
    help="Verify in memory what this function of an installed Python module returns: a torch module or its tensors.",
)
@click.option("--component", default="", help="With --module: the component of the model that it is.")
@click.option("--signature", type=PATH, help="The model's signature, which then goes with the evidence.")
@click.option(
    "--provider",
    type=click.Choice(["tdx", "snp", "simulated"]),
    help="The platform; default: the one that this machine is.",
)
@click.option("--no-gpu", "without_gpu", is_flag=True, help="Do not ask NVIDIA's driver for evidence of GPUs.")
@click.option("--collateral", type=PATH, help="For TDX: a file of collateral, which the verifier may also have itself.")
@click.option("--pccs", metavar="URL", help="For TDX: get the collateral from this service, over the network.")
@click.option("--certificates", type=PATH, help="For SEV-SNP: the chain in PEM; default: what the platform gives.")
@click.option(
    "--platform",
    type=PATH,
    help="For the simulated platform: the folder of its root and key, made if it is not there.",
)
@click.option("--extend-register", is_flag=True, help="For TDX: first extend RTMR3 with the root. It cannot be undone.")
@json_option
@quiet_option
@kernel_option
@device_option
@click.pass_context
def attest(
    context: click.Context,
    manifest_path: Path,
    nonce: str,
    output: Path,
    model: Path | None,
    factory: str | None,
    component: str,
    signature: Path | None,
    provider: str | None,
    without_gpu: bool,
    collateral: Path | None,
    pccs: str | None,
    certificates: Path | None,
    platform: Path | None,
    extend_register: bool,
    as_json: bool,
    quiet: bool,
    kernel: str | None,
    device: str | None,
) -> None:
    """Attest that a model was verified here.

    The model is verified on disk (--model) or in memory (--module). A statement says what came of it, for the
    verifier's nonce, and the platform that this machine runs on signs it: Intel TDX or AMD SEV-SNP, and GPUs in
    confidential mode. All of it goes to the folder --output, for `hashbench appraise`.

    --provider simulated is for tests: only those who name its root trust it.

    Exit codes: 0 the model is verified, and attested; 1 it is not what the manifest says, which is attested; 2 there is
    no such platform here, or the call is not usable.
    """
    from hashbench.trust import nvidia, tsm
    from hashbench.trust.attestation import attest as make
    from hashbench.trust.bundles import MAX_SIZE as MAX_SIGNATURE
    from hashbench.trust.evidence import check_folder, parse_nonce, write_evidence
    from hashbench.trust.trust_error import TrustError

    if model and factory:
        raise click.UsageError("name --model or --module: a statement is of one verification")
    if component and not factory:
        raise click.UsageError("--component can only be used with --module")
    if extend_register and provider == "simulated":
        raise click.UsageError("--extend-register is for a trust domain of Intel TDX")
    verifiers_nonce = parse_nonce(nonce)
    check_folder(output)
    platform_evidence = _provider(provider, collateral, pccs, certificates, platform)
    if provider != "simulated" and (reason := tsm.unavailable()):
        raise TrustError(f"{reason}; --provider simulated makes evidence for tests")
    manifest = read_manifest(manifest_path)
    verdict, report = _verified(manifest, manifest_path, model, factory, component, kernel, device)
    files = make(
        manifest,
        manifest_path.name,
        verdict,
        verifiers_nonce,
        platform_evidence,
        gpu=(lambda _: None) if without_gpu else nvidia.collect,
        signature=None if signature is None else read_regular(signature, MAX_SIGNATURE),
        extend_rtmr3=extend_register,
    )
    write_evidence(output, files)
    verified = None if verdict is None else verdict.verified
    if as_json:
        click.echo(json.dumps({"verified": verified, "files": sorted(files)}, indent=2))
    elif not quiet:
        if report is not None:
            for line in bounded(list(report.lines())):
                say(line)
        said = {None: "not hashed, and attested so", True: "attested", False: "attested: not what the manifest says"}
        say(f"{said[verified]}: {', '.join(sorted(files))}")
    if verified is False:
        context.exit(CHECK_FAILED)


@click.command("appraise")
@click.argument("folder", type=PATH)
@click.option("--nonce", required=True, help="The nonce that the attester was given, in hexadecimal digits.")
@click.option("--policy", "policy_path", type=PATH, required=True, help="What is asked (policy.schema.json).")
@click.option("--at", metavar="TIME", help="The time for which to answer, such as 2026-11-26T12:00:00Z; default: now.")
@click.option("--collateral", type=PATH, help="Collateral of TDX that the verifier has itself.")
@click.option("--simulated-root", type=PATH, help="The root of a simulated platform, to accept it. For tests.")
@click.option("--svr", type=PATH, help="Also write a simple verification result (in-toto) to this file.")
@click.option("--svr-key", type=PATH, help="Sign it with this private key: the file is then a DSSE envelope.")
@json_option
@quiet_option
@click.pass_context
def appraise(
    context: click.Context,
    folder: Path,
    nonce: str,
    policy_path: Path,
    at: str | None,
    collateral: Path | None,
    simulated_root: Path | None,
    svr: Path | None,
    svr_key: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Appraise the evidence that a model was verified.

    FOLDER is what `hashbench attest` wrote. Every check has a line: passed, failed, or not asked by the policy. Nothing
    is fetched from the network. Certificates, revocation lists and collateral must be valid at --at.

    Exit codes: 0 the evidence is what the policy asks; 1 it is not; 2 a file or the call is not usable, so that there
    is no verdict.
    """
    from hashbench.trust.appraisal import appraise as judge
    from hashbench.trust.certificates import read_certificates
    from hashbench.trust.dsse import signed
    from hashbench.trust.evidence import COLLATERAL, parse_nonce, read_evidence
    from hashbench.trust.keys import read_private_key
    from hashbench.trust.policy import read_policy
    from hashbench.trust.statements import parse_timestamp
    from hashbench.trust.tdx import MAX_COLLATERAL_SIZE

    if svr_key and not svr:
        raise click.UsageError("--svr-key can only be used with --svr")
    if svr:
        check_output(svr, "verification result", _is_result)
    key = read_private_key(svr_key) if svr_key else None
    root = read_certificates(simulated_root)[0] if simulated_root else None
    files = read_evidence(folder)
    if collateral:
        files[COLLATERAL] = read_regular(collateral, MAX_COLLATERAL_SIZE + 1)
    time = parse_timestamp(at) if at else datetime.now(UTC)
    found = judge(files, parse_nonce(nonce), read_policy(policy_path), time, simulated_root=root)
    if svr:
        text = found.statement().text()
        write_atomically(svr, json.dumps(signed(text, key).fields()).encode() if key else text)
    if as_json:
        click.echo(json.dumps(found.document(), indent=2))
    elif not (quiet and found.ok):
        for line in found.lines():
            say(line)
    if not found.ok:
        context.exit(CHECK_FAILED)


def _is_result(path: Path) -> bool:
    """Whether an existing file is a simple verification result, signed or not: it may be replaced."""
    from hashbench.trust.dsse import envelope_of
    from hashbench.trust.statements import MAX_SIZE, SVR, parse_statement
    from hashbench.trust.trust_error import TrustError

    data = read_regular(path, MAX_SIZE + 1)
    with suppress(KeyError, TypeError, ValueError):  # it is no envelope
        data = envelope_of(loads(data, max_depth=4)).payload
    try:
        parse_statement(data, SVR)
    except TrustError:
        return False
    return True


def _provider(
    name: str | None, collateral: Path | None, pccs: str | None, certificates: Path | None, platform: Path | None
) -> Provider:
    """What makes the platform's evidence."""
    from hashbench.trust.attestation import by_kernel, by_simulation
    from hashbench.trust.keys import read_pem
    from hashbench.trust.tdx import MAX_COLLATERAL_SIZE

    if (name == "simulated") != (platform is not None):
        raise click.UsageError("--provider simulated and --platform are needed together")
    if name == "simulated" and (collateral or pccs or certificates):
        raise click.UsageError("a simulated platform makes its own collateral and certificates")
    if collateral and pccs:
        raise click.UsageError("name --collateral or --pccs")
    if platform is not None:
        return by_simulation(platform)
    return by_kernel(
        name,
        read_pem(certificates) if certificates else None,
        read_regular(collateral, MAX_COLLATERAL_SIZE) if collateral else None,
        pccs,
    )


def _verified(
    manifest: Manifest,
    manifest_path: Path,
    model: Path | None,
    factory: str | None,
    component: str,
    kernel: str | None,
    device: str | None,
) -> tuple[Verdict | None, Report | None]:
    """The verdict on a model on disk or in memory; none of no model."""
    from hashbench.trust.attestation import Verdict

    if model is not None:
        with shown(str(model.absolute())) as progress:
            report = hashbench.verify(
                model, manifest, kernel=kernel, device=device, own=[manifest_path], progress=progress
            )
        check_decided(report)
        return Verdict(report.ok, "disk"), report
    if factory is None:
        return None, None
    tensors = _made(factory)
    report = hashbench.torch.verify(tensors, manifest, component=component)
    return Verdict(report.ok, _place(tensors, report.expected), component), report


def _place(tensors: Any, expected: Manifest) -> str:
    """Where the tensors are that were compared: by their memory, whatever a state dict would say."""
    from hashbench.torch.devices import GPUS
    from hashbench.torch.held import held

    kinds = {found.device.type for found in held(tensors, expected=expected.by_name.keys()).tensors.values()}
    return "gpu memory" if kinds and kinds <= GPUS.keys() else "host memory"


def _made(factory: str) -> Any:
    """What a function of an installed module returns."""
    module, _, name = factory.partition(":")
    if not module or not name:
        raise click.UsageError(f"{factory} is not accepted: write --module PACKAGE.MODULE:NAME")
    try:
        function = getattr(import_module(module), name)
    except (ModuleNotFoundError, AttributeError) as error:
        raise click.UsageError(f"{factory} cannot be imported: {error}") from None
    return function()
