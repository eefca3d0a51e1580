"""The documentation says what is so: its commands and code run, its output is real, and every option is documented."""

from __future__ import annotations

import ast
import csv
import re
import shlex
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from importlib import import_module
from itertools import takewhile
from pathlib import Path
from typing import Any

import amd_emulator
import click
import pytest
import triton_programs

from hashbench.bench.vendors import vendor_of
from hashbench.cli.main import hashbench, run
from hashbench.limits.gpus import gpus
from hashbench.limits.hashcat import published
from hashbench.limits.static_model import FORMAT, MEMORY, Prediction, toolchain

ROOT = Path(__file__).parent.parent
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "results" / "README.md"]
REFERENCE = ROOT / "docs" / "command-line.md"


def blocks(page: Path, language: str) -> list[str]:
    """The code blocks of a page in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)


def everywhere(language: str) -> list[tuple[Path, str]]:
    """The code blocks of all pages in one language."""
    return [(page, block) for page in PAGES for block in blocks(page, language)]


def commands() -> Iterator[click.Command]:
    context = click.Context(hashbench)
    for name in hashbench.list_commands(context):
        command = hashbench.get_command(context, name)
        assert command is not None
        yield command


def options(command: click.Command) -> set[str]:
    """The long options of a command."""
    found = (option for parameter in command.params for option in parameter.opts)
    return {option for option in found if option.startswith("--")}


def section(command: click.Command) -> str:
    """What the reference says about a command."""
    heading = f"\n## hashbench {command.name}\n"
    text = REFERENCE.read_text()
    assert text.count(heading) == 1, command.name
    return text.partition(heading)[2].partition("\n## ")[0]


@pytest.mark.parametrize("command", list(commands()), ids=lambda command: str(command.name))
def test_the_reference_has_every_option_of_a_command_and_no_other(command: click.Command) -> None:
    own = re.sub(r"```.*?```|`hashbench \w.*?`", "", section(command), flags=re.DOTALL)
    assert set(re.findall(r"--[a-z][a-z-]*", own)) == options(command)


def test_the_help_page_is_what_the_commands_print() -> None:
    # In a process of its own: click keeps a command's help option as it is first asked for.
    command = [sys.executable, "-P", "-m", "hashbench.cli.reference"]
    printed = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    page = (ROOT / "docs" / "cli.md").read_text()
    assert page == printed, "write it again: python -m hashbench.cli.reference > docs/cli.md"


def check_accepted(words: list[str]) -> None:
    """Checks that the command line accepts these words, after its name."""
    context = click.Context(hashbench, info_name="hashbench")
    _, command, rest = hashbench.resolve_command(context, words)
    assert command is not None
    command.make_parser(click.Context(command, parent=context)).parse_args(rest)


@pytest.mark.parametrize(("page", "block"), [*everywhere("sh"), *everywhere("console")])
def test_every_command_in_the_documentation_is_one_that_is_accepted(page: Path, block: str) -> None:
    for line in block.splitlines():
        words = shlex.split(line.removeprefix("$ "), comments=True)
        if words[:1] == ["hashbench"]:
            check_accepted(words[1:])


def commands_in(content: Any) -> Iterator[list[str]]:
    """The words of hashbench's commands in the YAML of a workflow, a hook or a pod."""
    if isinstance(content, dict):
        if str(content.get("image", "")).startswith("hashbench:"):
            yield content["args"]
        for value in content.values():
            yield from commands_in(value)
    elif isinstance(content, list):
        for item in content:
            yield from commands_in(item)
    elif isinstance(content, str) and content.startswith("hashbench "):
        yield shlex.split(content.partition(">")[0])[1:]


def test_every_command_in_a_configuration_is_one_that_is_accepted() -> None:
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed: install hashbench[docs]")
    found = [words for _, block in everywhere("yaml") for words in commands_in(yaml.safe_load(block))]
    for _, block in everywhere("ini"):
        found += [shlex.split(line)[1:] for line in re.findall(r"^Exec\w+=(\S+/hashbench .+)$", block, re.MULTILINE)]
    assert len(found) == 5  # a workflow, a hook, a pod, and two units
    for words in found:
        check_accepted(words)


@pytest.mark.parametrize(("page", "block"), everywhere("python"))
def test_python_in_the_documentation_uses_names_that_exist(page: Path, block: str) -> None:
    for library, words in {"torch": ["hashbench.distributed"], "transformers": [], "diffusers": [], "vllm": []}.items():
        if any(word in block for word in [library, *words]):
            pytest.importorskip(library)
    for node in ast.walk(ast.parse(block)):
        if isinstance(node, ast.Import):
            for name in node.names:
                import_module(name.name)
        if isinstance(node, ast.ImportFrom):
            module = import_module(str(node.module))
            assert all(hasattr(module, name.name) for name in node.names)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "hashbench":
            assert hasattr(import_module("hashbench"), node.attr), node.attr


def test_the_output_in_the_documentation_is_real(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    pytest.importorskip("safetensors")
    monkeypatch.chdir(tmp_path)
    start = ROOT / "docs" / "getting-started.md"
    make_model = blocks(start, "python")[0]
    for page in (start, REFERENCE):
        exec(make_model)
        for block in blocks(page, "console"):
            assert transcript(block, capfdbinary) == block, page.name


def transcript(block: str, output: pytest.CaptureFixture[bytes]) -> str:
    """A console block with the output that its commands have now."""
    lines = []
    for line in re.findall(r"^\$ (.*)$", block, re.MULTILINE):
        words = shlex.split(line)
        if words[0] == "hashbench":
            run(words[1:])
        else:
            subprocess.run(["bash", "-c", line], check=True)
        printed = output.readouterr()
        lines += [f"$ {line}\n", printed.out.decode(), printed.err.decode()]
    return "".join(lines)


def table(page: Path, heading: str) -> list[list[str]]:
    """The cells of the table whose first column has that heading, its head left out."""
    lines = page.read_text().partition(f"\n| {heading} |")[2].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in takewhile(lambda line: line, lines)]


def test_the_table_of_vendors_says_measured_only_where_there_are_rows() -> None:
    measured: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for file in ROOT.glob("results/*/*.csv"):
        if (file.parent / "machine.json").exists() and not file.name.endswith(".readings.csv"):
            with file.open() as text:
                for row in csv.DictReader(text):
                    measured[vendor_of(row["device_name"]), row["device_kind"]].add(row["kernel"])
    said: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for vendors, devices, done, kernels in table(ROOT / "docs" / "vendors.md", "vendor"):
        assert done in ("measured", "executed in an emulator", "compiled", "written for")
        if done == "measured":
            for vendor in vendors.split(", "):
                said[vendor, "cpu" if "processors" in devices else "gpu"] |= set(re.findall(r"`(.+?)`", kernels))
        if done == "executed in an emulator" and vendors == "AMD":
            executed = {"`opencl`": amd_emulator.EMULATED, "`triton`": triton_programs.EMULATED}[kernels]
            assert set(re.findall(r"gfx\w+", devices)) == set(executed)
    # rows that somebody adds come before the page says so
    assert all(kernels and kernels <= measured[device] for device, kernels in said.items())


def test_the_table_of_predictions_is_that_of_their_file() -> None:
    predictions = FORMAT.read(ROOT / "results" / "predictions.csv")
    of_default = {(p.gpu, p.algorithm): p for p in predictions if p.variant == toolchain(gpus()[p.gpu]).variants[0]}
    lines = table(ROOT / "docs" / "vendors.md", "GPU")
    assert [line[0] for line in lines] == list(dict.fromkeys(gpu for gpu, _ in of_default))
    for gpu, architecture, *cells in lines:
        for algorithm, cell in zip(("sha256", "sha384"), cells, strict=True):
            prediction = of_default[gpu, algorithm]
            assert architecture == f"{prediction.architecture}, {prediction.target}"
            assert cell == shown(prediction)


def test_the_page_of_vendors_says_of_hashcats_rates_what_is_quoted() -> None:
    ratios: defaultdict[str, list[float]] = defaultdict(list)
    for prediction in FORMAT.read(ROOT / "results" / "predictions.csv"):
        rate, limit = published().get((prediction.gpu, prediction.algorithm)), prediction.arithmetic_gb_per_s
        if rate and limit and prediction.variant == toolchain(gpus()[prediction.gpu]).variants[0]:
            ratios[prediction.gpu].append(rate.gb_per_s / limit)
    l4, (sha256, sha512) = ratios.pop("L4"), ratios.pop("RX 7900 XT")
    others = [ratio for both in ratios.values() for ratio in both]
    clock = gpus()["RX 7900 XT"].boost_mhz
    assert "3125 MHz" in published()["RX 7900 XT", "sha256"].note
    unquoted = [gpu.partition(",")[0] for gpu in gpus() if (gpu, "sha256") not in published()]
    text = " ".join((ROOT / "docs" / "vendors.md").read_text().split())
    for said in (
        f"{min(others):.2f} to {max(others):.2f} times the predicted limit of the arithmetic on seven GPUs",
        f"and {min(l4):.2f} to {max(l4):.2f} on the L4",
        f"{sha256:.2f} (SHA-256) and {sha512:.2f} times (SHA-512) the limit at the published {clock:,} MHz",
        f"at that clock they are {sha256 * clock / 3125:.2f} and {sha512 * clock / 3125:.2f} times",
        f"No rates are quoted for the {', '.join(unquoted[:-1])} and {unquoted[-1]}.",
    ):
        assert said in text
    assert len(ratios) == 7
    assert {toolchain(gpus()[gpu]).kernel for gpu in ratios} == {"cupy"}  # NVIDIA's


def shown(prediction: Prediction) -> str:
    """A prediction as the page has it."""
    if prediction.spread is None:
        return f"{prediction.instructions:,} instructions"
    low, likely, high = prediction.spread
    text = f"{likely:,.0f}" if high < 1.01 * low else f"{likely:,.0f} ({low:,.0f} to {high:,.0f})"
    return f"{text}, by its memory" if prediction.bound == MEMORY else text


def test_the_readmes_headline_is_in_the_rows() -> None:
    with (ROOT / "results" / "nvidia-h200" / "model-sizes.csv").open() as file:
        rows = [
            row
            for row in csv.DictReader(file)
            if (row["model"], row["kernel"], row["chunk_size"]) == ("llama-3.1-70b", "cupy", "4096")
        ]
    assert len(rows) == 2
    readme = (ROOT / "README.md").read_text()
    for row in rows:
        assert f"{float(row['gb_per_s']):.0f} GB/s ({float(row['wall_seconds_median']):.3f} s)" in readme
