"""Results of strangers: what `report`, `figures` and `compare` read, show and write, whatever a folder holds.

A machine's folder comes with a pull request or by mail. Its names and cells are only ever shown, its links and pipes
not followed, its pictures figures or nothing; and what cannot be used is named and left out, while all else is shown.
"""

from __future__ import annotations

import csv
import json
import os
from base64 import b64decode
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from io import StringIO
from math import nan
from pathlib import Path

import pytest
from drawings import keep_figures
from hypothesis import given
from hypothesis import strategies as st
from profiles import examples
from rows import POSITIVE_NUMBERS, ROW, TEXTS, WHOLE_NUMBERS, machine_rows

from hashbench.bench.frames import Results
from hashbench.bench.inventories import MODELS
from hashbench.bench.output_check import COVERAGES
from hashbench.bench.records import FORMULAS, MOST_RECORDS
from hashbench.bench.results import MACHINE_FILE, ROWS, SCHEMA, Row
from hashbench.cli.main import run
from hashbench.kernels import ALGORITHMS, KERNELS, STRATEGIES
from hashbench.report.claims import CLAIMS
from hashbench.report.drawn_svg import LARGEST, read_drawn
from hashbench.report.findings import Verdict

SECRET = "-----BEGIN OPENSSH PRIVATE KEY-----"
CLEAR_SCREEN = "\x1b[2J"
LINK = "\x1b]8;;https://example.com\x1b\\text\x1b]8;;\x1b\\"


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Results of a machine of the user's, and the folder of a stranger's machine with nothing but a description."""
    folder = tmp_path / "results"
    for name in ("mine", "strange"):
        (folder / name).mkdir(parents=True)
        (folder / name / MACHINE_FILE).write_text("{}")
    add(folder / "mine", *machine_rows())
    return folder


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file of the user's outside the results."""
    path = tmp_path / "id_ed25519"
    path.write_text(SECRET)
    return path


def add(machine: Path, *rows: Row) -> Path:
    """Writes rows of one experiment to its file, without checking them."""
    path = ROWS.path(machine, rows[0].experiment)
    path.write_bytes(ROWS.text(rows))
    return path


@dataclass(frozen=True)
class Done:
    """What a command ended with."""

    code: int
    output: str
    told: list[str]


Command = Callable[..., Done]


@pytest.fixture
def hashbench(capsys: pytest.CaptureFixture[str], results: Path) -> Command:
    """Runs a command over the results. Whatever they hold, nothing of it reaches the terminal but text."""

    def command(name: str, *arguments: str) -> Done:
        code = run([name, *arguments, "--results", str(results)])
        output, errors = capsys.readouterr()
        assert all(c.isprintable() or c == "\n" for c in output + errors)
        return Done(code, output, errors.splitlines())

    return command


def page_of(results: Path) -> str:
    """The page, with what is embedded in it, after a report that shows the user's own rows."""
    page = (results / "report.html").read_text()
    assert '<a href="mine/throughput.csv">16</a>' in page
    return page + "".join(b64decode(part.partition('"')[0]).decode() for part in page.split("base64,")[1:])


# Links and pipes -----------------------------------------------------------------------------------------------------

PLACES = (
    "strange/throughput.csv",
    "strange/throughput.readings.csv",
    "strange/machine.json",
    "figures/vendors.svg",
    "predictions.csv",
)


@pytest.mark.parametrize("make", [Path.symlink_to, lambda path, _: os.mkfifo(path)], ids=["link", "pipe"])
def test_a_link_is_not_followed_and_a_pipe_not_waited_for(
    results: Path, secret: Path, hashbench: Command, make: Callable[[Path, Path], None]
) -> None:
    add(results / "strange", replace(ROW, experiment="vendors"))
    for place in PLACES:
        path = results / place
        path.parent.mkdir(exist_ok=True)
        path.unlink(missing_ok=True)
        make(path, secret)
    done = hashbench("report")
    assert done.code == 2
    reason = "cannot be read: Not a regular file"
    assert sorted(done.told) == sorted(f"left out: {results / place} {reason}" for place in PLACES)
    assert SECRET not in page_of(results)


def test_a_folder_that_is_a_link_is_left_out(results: Path, tmp_path: Path, hashbench: Command) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    add(elsewhere, replace(ROW, device_name="a secret device"))
    (results / "linked").symlink_to(elsewhere)
    done = hashbench("report")
    assert (done.code, done.told) == (2, [f"left out: {results / 'linked'} is not accepted: it is a link"])
    assert "secret" not in page_of(results).partition('id="left-out"')[0]


@pytest.mark.parametrize("folder", ["strange", ""], ids=["machine", "overview"])
def test_nothing_is_written_through_a_link(
    results: Path, tmp_path: Path, hashbench: Command, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(results / "strange", replace(ROW, experiment="vendors"))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (results / folder / "figures").symlink_to(elsewhere)
    drawn = keep_figures(monkeypatch)
    done = hashbench("figures")
    assert done.code == 2
    assert any("figures is not accepted: it is a link" in line for line in done.told)
    assert drawn  # the others
    assert list(elsewhere.iterdir()) == []


def test_compare_leaves_links_out(results: Path, secret: Path, hashbench: Command) -> None:
    add(results / "strange", ROW)
    (results / "strange" / "vendors.csv").symlink_to(secret)
    done = hashbench("compare", "mine", "strange")
    assert done.code == 2
    assert "throughput" in done.output
    assert [line.endswith("vendors.csv cannot be read: Not a regular file") for line in done.told] == [True]


# Pictures ------------------------------------------------------------------------------------------------------------

NAMESPACES = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'


def svg(inner: str, attributes: str = "") -> bytes:
    return f"<svg {NAMESPACES} {attributes}>{inner}</svg>".encode()


ENTITY = '<!DOCTYPE svg [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>'
NO_FIGURES = {
    "script": svg("<script>alert(1)</script>"),
    "script of another namespace": svg('<x:script xmlns:x="http://www.w3.org/1999/xhtml">alert(1)</x:script>'),
    "handler": svg("", 'onload="alert(1)"'),
    "handler in a figure": svg('<g id="axes_1"><path d="M 0 0" onclick="alert(1)"/></g>'),
    "HTML": svg('<foreignObject><body xmlns="http://www.w3.org/1999/xhtml"/></foreignObject>'),
    "link": svg('<a xlink:href="javascript:alert(1)"><text>x</text></a>'),
    "image": svg('<image xlink:href="https://example.com/x.png"/>'),
    "file": svg('<image xlink:href="file:///etc/passwd"/>'),
    "use of another file": svg('<use xlink:href="https://example.com/x.svg#a"/>'),
    "plain href": svg('<use href="https://example.com/x.svg#a"/>'),
    "animation": svg('<set attributeName="xlink:href" to="javascript:alert(1)"/>'),
    "import": svg("<style>@import 'https://example.com/x.css';</style>"),
    "fetching style": svg("<style>*{fill: url(https://example.com/x)}</style>"),
    "escaped style": svg("<style>*{fill: u\\72l(https://example.com/x)}</style>"),
    "style in parts": svg("<style>*{fill: u<![CDATA[rl(https://example.com/x)}]]></style>"),
    "fetching attribute": svg('<g style="fill: URL(https://example.com/x)"/>'),
    "fetching clip": svg('<g clip-path="url( //example.com/x#a)"/>'),
    "entities": ENTITY.encode() + svg("<text>&b;</text>"),
    "external entity": b'<!DOCTYPE svg [<!ENTITY x SYSTEM "file:///etc/passwd">]>' + svg("<text>&x;</text>"),
    "style sheet": b'<?xml-stylesheet href="https://example.com/x.css"?>' + svg(""),
    "another encoding": svg("<script>alert(1)</script>").decode().encode("utf-16"),
    "PNG": b"\x89PNG\r\n\x1a\n" + bytes(100),
    "page": b"<!DOCTYPE html><title>x</title><script>alert(1)</script>",
    "text": SECRET.encode(),
    "nothing": b"",
    "much": svg("<!--" + LARGEST * "x" + "-->"),
}


def test_what_is_no_figure_is_not_embedded(results: Path, hashbench: Command) -> None:
    add(results / "strange", replace(ROW, experiment="vendors"))
    figures = results / "figures"
    figures.mkdir()
    for what, content in NO_FIGURES.items():
        (figures / f"vendors_{what}.svg").write_bytes(content)
    (figures / "vendors.svg").write_bytes(svg('<text x="1" style="fill: #000000">good</text>'))
    done = hashbench("report")
    assert done.code == 2
    assert len(done.told) == len(NO_FIGURES)
    page = page_of(results)
    for what, content in NO_FIGURES.items():
        path = figures / f"vendors_{what}.svg"
        assert [line.startswith(f"left out: {path} ") for line in done.told].count(True) == 1, what
        assert content.decode(errors="replace") not in page or not content, what
    assert page.count("<img ") == 1
    assert ">good<" in page


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[2] / "results").rglob("*.svg")), ids=lambda p: p.stem)
def test_what_experiments_draw_is_accepted(path: Path) -> None:
    assert read_drawn(path) == path.read_bytes()


# Names and cells -----------------------------------------------------------------------------------------------------

NOT_SHOWN = {
    "escape": CLEAR_SCREEN,
    "link": LINK,
    "C1 control": "\x9b2J",
    "bell": "a\x07",
    "line end": "a\nb",
    "direction": "a\u202eb",
    **{f"formula {sign}": f"{sign}HYPERLINK(1)" for sign in FORMULAS},
}


def machines(results: Path, count: int) -> list[Path]:
    """The folders of so many strangers' machines, each with rows that are shown."""
    folders = [results / f"strange-{number:02}" for number in range(count)]
    for folder in folders:
        folder.mkdir()
        (folder / MACHINE_FILE).write_text("{}")
        add(folder, replace(ROW, experiment="vendors"))
    return folders


@pytest.mark.parametrize("command", ["report", "figures", "compare"])
def test_a_cell_that_would_be_carried_out_leaves_its_file_out(
    results: Path, hashbench: Command, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_figures(monkeypatch)
    folders = machines(results, len(NOT_SHOWN))
    for folder, text in zip(folders, NOT_SHOWN.values(), strict=True):
        add(folder, ROW)
        add(folder, replace(ROW, experiment="vendors", device_name=text))
    done = hashbench(command, *(("mine", *(folder.name for folder in folders)) if command == "compare" else ()))
    assert done.code == 2
    for folder, line in zip(folders, sorted(done.told), strict=True):
        assert line.startswith(f"left out: {folder / 'vendors.csv'}, line 2: device_name is ")
    assert done.output


@pytest.mark.parametrize("command", ["report", "figures"])
def test_a_folder_with_such_a_name_is_left_out(
    results: Path, hashbench: Command, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_figures(monkeypatch)
    names = [f"a{CLEAR_SCREEN}", f"a{LINK.replace('/', '')}", "a\udcff", "=1+2", "a\nb"]
    for folder, name in zip(machines(results, len(names)), names, strict=True):
        folder.rename(results / name)
    done = hashbench(command)
    assert done.code == 2
    assert [line.startswith("left out: the name of a machine's folder is ") for line in done.told] == [True] * len(
        names
    )


@pytest.mark.parametrize("command", ["report", "figures"])
def test_a_file_with_any_name_is_only_named(
    results: Path, hashbench: Command, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_figures(monkeypatch)
    for name in (f"a{CLEAR_SCREEN}.csv", "a\udcff.csv", "..csv", "unknown.csv", "<b>.csv"):
        add(results / "strange", ROW).rename(results / "strange" / name)
    done = hashbench(command)
    assert "Traceback" not in "".join(done.told)
    if command == "report":
        assert "<b>.csv" not in page_of(results)


MARKUP = "[bold red]GPU[/bold red] [link=https://example.com]x[/link] [/]"


def test_markup_is_text(results: Path, hashbench: Command) -> None:
    add(results / "strange", replace(ROW, device_name=f"NVIDIA {MARKUP}"))
    add(results / "mine", ROW)
    done = hashbench("compare", "mine", "strange", "--points")
    assert done.code == 0
    assert "[bold red]GPU[/bold red]" in " ".join(done.output.split())


def test_html_is_text(results: Path, hashbench: Command) -> None:
    add(results / "strange", replace(ROW, experiment="vendors", device_name="<script>alert(1)</script>"))
    (results / "strange" / MACHINE_FILE).write_text(json.dumps({"os": "<script>alert(2)</script>"}))
    assert hashbench("report").code == 0
    page = page_of(results)
    assert "&lt;script&gt;alert(1)" in page
    assert "&lt;script&gt;alert(2)" in page
    assert page.count("<script>") == 1


def test_no_table_of_a_figure_has_a_formula(results: Path, hashbench: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    keep_figures(monkeypatch)
    add(results / "strange", replace(ROW, experiment="vendors", device_name="'=1+2"))
    add(results / "strange", ROW)
    assert hashbench("figures").code == 0
    tables = [path.read_text() for path in results.rglob("figures/*.csv")]
    assert len(tables) >= 3
    cells = [cell for table in tables for line in csv.reader(StringIO(table)) for cell in line]
    assert not [cell for cell in cells if cell.startswith(FORMULAS)]


# Files that are none -------------------------------------------------------------------------------------------------


NO_ROWS = {
    "binary": os.urandom(100),
    "another schema": b"schema\n9\n",
    "truncated": ROWS.text([ROW])[:-20],
    "many digits": ROWS.text([replace(ROW, bytes=10**4000)]),
    "beyond 64 bits": ROWS.text([replace(ROW, bytes=2**63)]),
    "near overflow": ROWS.text([replace(ROW, seconds_q1=1e-308)]),
    "not a number": ROWS.text([replace(ROW, gb_per_s=nan)]),
    "samples near overflow": ROWS.text([replace(ROW, seconds_samples=(1e308,) * 9)]),
    "a tree without chunks": ROWS.text([replace(ROW, chunk_size=None)]),
    "many lines": ROWS.text([]) + b"\n" * (MOST_RECORDS + 1),
    "wide": b"schema" + b",x" * 100_000 + b"\n",
    "a long cell": ROWS.text([replace(ROW, device_name="x" * 200_000)]),
}
NO_DESCRIPTIONS = {
    "binary": os.urandom(100),
    "no JSON": b"{",
    "deep": b"[" * 100_000,
    "a list": b"[]",
    "a list for a processor": b'{"cpu": [1]}',
    "a number for GPUs": b'{"gpus": 5}',
    "texts for GPUs": b'{"gpus": ["x"]}',
    "text for bytes": b'{"memory_bytes": "x"}',
    "not a number": b'{"memory_bytes": NaN}',
    "text for packages": b'{"packages": "x"}',
    "large": b'{"os": "' + b"x" * (1 << 20) + b'"}',
}


@pytest.mark.parametrize(
    ("name", "contents"), [("throughput.csv", NO_ROWS), (MACHINE_FILE, NO_DESCRIPTIONS)], ids=["rows", "description"]
)
def test_bad_files_are_named_and_all_else_is_shown(
    results: Path, hashbench: Command, name: str, contents: dict[str, bytes]
) -> None:
    folders = machines(results, len(contents))
    for folder, content in zip(folders, contents.values(), strict=True):
        (folder / name).write_bytes(content)
    done = hashbench("report")
    assert done.code == 2
    assert len(done.told) == len(contents)
    page = page_of(results)
    for folder, what in zip(folders, contents, strict=True):
        (told,) = (line for line in done.told if f"{folder / name}" in line)
        assert len(told) < 600, what
        assert f'<a href="{folder.name}/vendors.csv">1</a>' in page, what


def test_one_figure_that_cannot_be_drawn_does_not_prevent_the_others(
    results: Path, hashbench: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(results / "strange", replace(ROW, protocol="1"), replace(ROW, protocol="2", strategy="batched"))
    drawn = keep_figures(monkeypatch)
    done = hashbench("figures")
    assert done.code == 2
    (told,) = done.told
    assert "strange/throughput: no figure can be drawn: rows of measurement protocols" in told
    assert drawn


ANY_ROW = st.builds(
    Row,
    **{
        field.name: {"int": WHOLE_NUMBERS, "float": POSITIVE_NUMBERS, "str": TEXTS}.get(str(field.type), st.just(()))
        for field in fields(Row)
    }
    | {
        "schema": st.just(SCHEMA),
        "model": st.sampled_from(["", *MODELS]),
        "kernel": st.sampled_from([*KERNELS, "another"]),
        "strategy": st.sampled_from(STRATEGIES),
        "algorithm": st.sampled_from([*ALGORITHMS]),
        "device_kind": st.sampled_from(["gpu", "cpu"]),
        "verified": st.sampled_from(COVERAGES),
        "digest": st.just(""),
        "chunk_size": WHOLE_NUMBERS,
    },
)


@examples(15)
@given(rows=st.lists(ANY_ROW, min_size=1, max_size=6))
def test_whatever_rows_say_claims_are_judged(rows: list[Row]) -> None:
    for claim in CLAIMS:
        if claim.experiment:
            of = [replace(one, experiment=claim.experiment) for one in rows]
            assert claim.finding({claim.experiment: Results.of(of, machine="strange")}).verdict in Verdict
