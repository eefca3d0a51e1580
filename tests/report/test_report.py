"""The report: complete, self-contained, reproducible, and computed from nothing but the results."""

from __future__ import annotations

import json
import re
import shutil
from base64 import b64decode, b64encode
from collections import Counter
from dataclasses import replace
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest
from claim_results import supporting
from click.testing import CliRunner, Result

from hashbench.bench.readings import READINGS
from hashbench.bench.records import ResultsError
from hashbench.bench.results import ROWS
from hashbench.cli import report as report_commands
from hashbench.limits.static_model import FORMAT, Prediction
from hashbench.report.page import build

SVG = b'<svg xmlns="http://www.w3.org/2000/svg">'
"""The beginning of a figure."""


def picture(name: str) -> bytes:
    """A figure in SVG."""
    return SVG + f"<text>{name}</text></svg>".encode()


VOID = {"meta", "img", "br", "link"}


class Page(HTMLParser):
    """The elements of a page, and whether each is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.attributes if name == tag]


PREDICTION = Prediction(
    gpu="H200",
    target="sm_90",
    architecture="Hopper",
    algorithm="sha256",
    variant="sliced",
    instructions=1651,
    alu_slots=1109,
    fma_slots=537,
    fp64_slots=None,
    alu_gb_per_s=1021,
    fma_gb_per_s=2000,
    fp64_gb_per_s=None,
    issue_gb_per_s=1300,
    memory_gb_per_s=4800,
    bound="ALU",
    predicted_gb_per_s=1021.5,
    predicted_low=1021.5,
    predicted_high=1021.5,
    code="SHF 672",
    toolchain="NVRTC 13.0",
    source="a data sheet",
    note="",
    commit="0123456789",
    date="2026-01-02T03:04:05Z",
)


@pytest.fixture(scope="module")
def supported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of two machines that support every claim that has an experiment, with a figure each: only to be read."""
    folder = tmp_path_factory.mktemp("supported")
    for experiment, machines in supporting().items():
        for machine in machines:
            name = "amd-mi300x" if "AMD" in machine.name else "nvidia-h200"
            (folder / name / "figures").mkdir(parents=True, exist_ok=True)
            (folder / name / "figures" / f"{experiment}.svg").write_bytes(picture(experiment))
            (folder / name / "figures" / f"{experiment}.csv").write_text("a column\n")
            for row in machine.rows:
                ROWS.file(ROWS.path(folder / name, experiment)).add(row)
            for reading in machine.readings:
                READINGS.file(READINGS.path(folder / name, experiment)).add(reading)
            description = {
                "cpu": {"name": "Tom & Jerry <CPU>", "physical_cores": 8, "logical_cores": 16},
                "memory_bytes": 135e9,
                "gpus": [{"name": "NVIDIA H200", "compute_capability": [9, 0], "sm_clock_max": 1980, "driver": None}],
                "packages": {"numpy": "2.4.6"},
            }
            (folder / name / "machine.json").write_text(json.dumps(description))
    return folder


@pytest.fixture(scope="module")
def text(supported: Path) -> str:
    """The page of `supported`."""
    return build(supported)


@pytest.fixture
def results(supported: Path, tmp_path: Path) -> Path:
    """A copy of `supported`, to be changed."""
    return Path(shutil.copytree(supported, tmp_path / "results"))


def run_report(results: Path, *arguments: str) -> Result:
    return CliRunner().invoke(report_commands.report, ["--results", str(results), *arguments])


def test_the_page_is_well_formed_and_fetches_nothing(supported: Path, text: str) -> None:
    assert text.startswith("<!DOCTYPE html>\n")
    page = Page(text)
    assert page.open == []
    assert page.tags["link"] == page.tags["iframe"] == 0
    assert "url(" not in text
    assert "@import" not in text
    targets = [str(a.get("href") or a.get("src")) for tag in ("a", "img") for a in page.of(tag)]
    assert {urlparse(target).scheme for target in targets} == {"", "data"}
    ids = {a["id"] for _, a in page.attributes if "id" in a}
    assert {target[1:] for target in targets if target.startswith("#")} <= ids
    files = {unquote(target) for target in targets if not target.startswith(("#", "data:"))}
    assert files
    assert all((supported / file).is_file() for file in files)


def test_the_policy_allows_the_pages_own_style_and_script_alone(text: str) -> None:
    page = Page(text)
    policies = [a["content"] for a in page.of("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    (style,) = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    allowed = [f"'sha256-{b64encode(sha256(part.encode()).digest()).decode()}'" for part in (style, script)]
    assert policies == [f"default-src 'none'; img-src data:; style-src {allowed[0]}; script-src {allowed[1]}"]
    assert page.tags["script"] == page.tags["style"] == 1
    assert not any("style" in a or any(name.startswith("on") for name in a) for _, a in page.attributes)


def test_every_row_and_reading_is_one_link_away(supported: Path, text: str) -> None:
    links = [unquote(str(a["href"])) for a in Page(text).of("a")]
    files = [path.relative_to(supported).as_posix() for path in supported.glob("*/*.csv")]
    assert len(files) > 7
    assert set(files) <= set(links)


def test_a_link_to_a_strangely_named_machine_stays_a_relative_link(results: Path) -> None:
    (results / "nvidia-h200").rename(results / 'javascript:alert(1)"')
    text = build(results)
    assert '<a href="javascript%3Aalert%281%29%22/model-sizes.csv">' in text
    assert 'href="javascript:' not in text


def test_every_figure_is_embedded_and_described(text: str) -> None:
    page = Page(text)
    images = page.of("img")
    assert len(images) == 10  # one for each claim, and vendors for two machines
    prefix = "data:image/svg+xml;base64,"
    assert all(b64decode(str(image["src"]).removeprefix(prefix)).startswith(SVG) for image in images)
    assert all(len(str(image["alt"])) > 40 for image in images)
    assert page.tags["figcaption"] == len(images)


def test_a_figure_over_all_machines_replaces_those_of_each(results: Path) -> None:
    (results / "figures").mkdir()
    (results / "figures" / "vendors.svg").write_bytes(picture("of all"))
    (results / "nvidia-h200" / "figures" / "model-sizes_cpu.svg").write_bytes(picture("of all"))
    captions = re.findall(r"<figcaption>(C[14], [^.]*)\.", build(results))
    assert captions == ["C1, nvidia-h200", "C1, nvidia-h200, cpu", "C4, all machines"]


def test_the_verdicts_are_those_of_the_claims(results: Path, text: str) -> None:
    assert "9 are supported" in " ".join(text.split())
    ROWS.path(results / "nvidia-h200", "batched-vs-tree").unlink()
    text = build(results)
    assert "8 are supported and 1 is not measured" in " ".join(text.split())
    assert "<b>Not answered.</b> Batched and tree were not measured at one point of a GPU." in text


def test_numbers_come_from_the_rows(results: Path, text: str) -> None:
    path = ROWS.path(results / "nvidia-h200", "model-sizes")
    assert "0.153 s for llama-3.1-70b" in text
    seconds = "0.153377"
    rows = path.read_text()
    assert seconds in rows
    path.write_text(re.sub(rf"{seconds}\d*", "0.123456", rows))
    after = build(results)
    assert "0.123 s for llama-3.1-70b" in after
    assert "0.153 s" not in after


def test_the_same_results_give_the_same_bytes(results: Path, text: str) -> None:
    for path in sorted(results.rglob("*.csv"), reverse=True):  # written again, later
        path.write_bytes(path.read_bytes())
    assert build(results) == text


def test_machine_facts_are_escaped_and_unknown_ones_left_out(text: str) -> None:
    assert "Tom &amp; Jerry &lt;CPU&gt;" in text
    assert "<dd>8 (16 threads)</dd>" in text
    assert "<dd>9.0</dd>" in text
    assert "<dt>GPU driver</dt>" not in text
    assert "None" not in text


def test_predictions_are_marked_and_in_their_own_section(results: Path, text: str) -> None:
    assert "Predicted, not measured" not in text
    (results / "predictions.csv").write_bytes(FORMAT.text([PREDICTION]))
    predicted = build(results)
    section = predicted[predicted.index('<section id="predictions">') :]
    assert "Predicted, not measured" in section
    assert "1,022" in section
    assert "1,022" not in predicted[: predicted.index('<section id="predictions">')]


def test_a_prediction_has_the_error_that_its_figure_has(results: Path) -> None:
    (results / "predictions.csv").write_bytes(FORMAT.text([replace(PREDICTION, predicted_gb_per_s=1056)]))
    path = ROWS.path(results / "nvidia-h200", "architectures")
    (row,) = (r for r in ROWS.file(path).records if r.algorithm == "sha256")
    drawn = replace(row, kernel="cupy", variant="sliced")
    ROWS.file(path).add(drawn)
    other = replace(drawn, experiment="throughput", gb_per_s=1100.0)
    ROWS.file(ROWS.path(results / "nvidia-h200", "throughput")).add(other)
    section = build(results).partition('<section id="predictions">')[2]
    assert "+10.0%" in section
    assert "-4.0%" not in section


def test_the_command_writes_to_the_results_or_to_a_given_path(results: Path, text: str, tmp_path: Path) -> None:
    done = run_report(results)
    assert done.exit_code == 0, done.output
    assert done.stdout == f"report: {results / 'report.html'}\n"
    assert (results / "report.html").read_text() == text
    done = run_report(results, "-o", str(tmp_path / "new" / "page.html"))
    assert done.exit_code == 0, done.output
    assert (tmp_path / "new" / "page.html").read_text() == text


def test_what_cannot_be_used_is_left_out_and_named(results: Path) -> None:
    machine = results / "nvidia-h200" / "machine.json"
    machine.write_text("{")
    ROWS.path(results / "nvidia-h200", "vendors").write_text("schema\n9\n")
    done = run_report(results)
    assert done.exit_code == 2
    told = done.stderr.splitlines()
    assert len(told) == 2
    assert re.search(r"vendors\.csv has schema '9'", told[0])
    assert re.search(r"machine\.json is not a machine's description: not valid JSON", told[1])
    page = (results / "report.html").read_text()
    section = page.partition('<section id="left-out">')[2].partition("</section>")[0]
    assert section.count("<li>") == 2
    assert "0.153 s for llama-3.1-70b" in page  # by the same machine


def test_a_folder_without_results_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match="holds no results"):
        build(tmp_path)
