from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from hwsparse.artifact import LayerProof
from hwsparse.errors import HwsparseError
from hwsparse.plan import Plan, parse_choice
from hwsparse.report import ArtifactPlace, Ceiling, Comparison, FrontReport, Method
from hwsparse.report.figure import HOVER_LAYERS, hover_text
from hwsparse.report.html import front_html
from hwsparse.report.plot import front_png
from hwsparse.report.table import front_table
from hwsparse.report.view import headline, view
from tests.report.sample import MODEL, point, sample_report

REPORT = sample_report()
HOSTILE = '</script><script>alert("x")</script><img src=x onerror=alert(1)>[bold]&amp; $\\frac$ <b>'


def hostile() -> FrontReport:
    """Every text of a report that can come from outside."""
    plan = Plan.of(MODEL, {HOSTILE: parse_choice("2:4")})
    layer = LayerProof(HOSTILE, "2:4", "dense", HOSTILE, 1e-3, 2e-3, HOSTILE)
    method = Method(HOSTILE, "after", "dense-to-sparse")
    points = (
        point(HOSTILE, "small-dense", 2.0, 0.9, method=method),
        point(
            HOSTILE,
            "search",
            2.0,
            0.9,
            plan=plan,
            split=HOSTILE,
            method=method,
            artifact=ArtifactPlace("0" * 64, HOSTILE),
        ),
        point(HOSTILE, "external", 3.0, 0.95, split=HOSTILE),
        point("dense", "dense", 4.0, 0.95, plan=Plan.of(MODEL, {})),
        point("trial 1", "search", 2.5, 0.9, "predicted", plan=plan, split=HOSTILE),
    )
    texts = dict.fromkeys(("title", "model", "device", "dataset", "metric"), HOSTILE)
    return FrontReport(
        **texts,
        points=points,
        winner=HOSTILE,
        layers=(layer,),
        notes=(HOSTILE,),
        comparison=Comparison(MODEL, (0,), Ceiling(HOSTILE, 0.9, (0.8, 1.0))),
    )


AWKWARD = {
    "one point": FrontReport("t", "m", "d", "s", "spearman", (point("dense", "dense", 3.0, 0.8),)),
    "no quality at all": FrontReport("t", "m", "d", "s", "top1", (point("a", "search", 3.0, 0.0, "predicted"),)),
    "predictions only": sample_report(30, measured=False),
    "only another runtime": FrontReport("", "", "", "", "", (point("ort", "external", 1.0, 0.5),)),
    "hostile names": hostile(),
    "names without glyphs": replace(REPORT, title="模型 " * 40, model="\N{PILE OF POO}"),
    "negative quality": FrontReport(
        "t", "m", "d", "s", "loss", tuple(point(f"{i}", "search", 1.0 + i, -5.0 + i, "simulated") for i in range(4))
    ),
}


class Page(HTMLParser):
    """Tags and attributes of a page, and the text outside of scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts.append(data)
        elif self._inside != "style":
            self.text += data

    @property
    def traces(self) -> list[dict[str, object]]:
        script = next(text for text in self.scripts if "Plotly.newPlot(" in text and len(text) < 1_000_000)
        start = re.search(r'Plotly\.newPlot\(\s*"front",\s*', script)
        assert start is not None
        return json.JSONDecoder().raw_decode(script, start.end())[0]


def page_of(report: FrontReport, directory: Path) -> Page:
    front_html(report, directory / "front.html")
    return Page((directory / "front.html").read_text(encoding="utf-8"))


def table_text(report: FrontReport, width: int) -> str:
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    with console.file:
        console.print(front_table(report))
    return console.export_text()


def test_the_table_fits_a_terminal_and_says_it_all() -> None:
    text = table_text(REPORT, 80)
    assert max(map(len, text.splitlines())) <= 80
    winner = next(line for line in text.splitlines() if "★" in line)
    for word in ("search 3", "2.08 ms", "311 M", "2.31×", "96.2 %", "0.6 pts"):  # noqa: RUF001
        assert word in winner
    assert text.count("measured") == text.count("dense-to-sparse, static") + 2 == 9  # dense in two runtimes
    assert sum("●" in line for line in text.splitlines()) == 3 + 1  # and the key
    for baseline in ("dense", "small dense", "onnxruntime", "uniform"):
        assert baseline in text


def test_robustness_is_a_column_where_it_was_judged(tmp_path: Path) -> None:
    timed = {"measured": 0.8765}
    points = tuple(replace(each, robustness=timed.get(each.latency_source)) for each in REPORT.points)
    robust = replace(REPORT, points=points)
    text = table_text(robust, 80)
    assert max(map(len, text.splitlines())) <= 80
    winner = next(line for line in text.splitlines() if "★" in line)
    for word in ("search 3", "2.08 ms", "96.2 %", "0.6 pts", "87.6 %"):
        assert word in winner
    assert "measured" in text
    page, plain = page_of(robust, tmp_path), page_of(REPORT, tmp_path)
    assert page.text.count("87.6 %") == len(REPORT.shortlist)
    assert "robustness is the mean quality on the same samples, corrupted" in page.text
    assert "obust" not in plain.text and "Robust" not in table_text(REPORT, 80)


def test_predictions_are_told_from_measurements_in_the_table() -> None:
    assert "measured" not in table_text(AWKWARD["predictions only"], 100)
    assert "predicted" not in table_text(REPORT, 100)


def test_the_page_needs_nothing_else(tmp_path: Path) -> None:
    page = page_of(REPORT, tmp_path)
    attributes = {name for _, found in page.tags for name in found}
    assert not attributes & {"src", "href", "srcset", "action"}
    assert not any(tag in ("link", "img", "iframe", "object") for tag, _ in page.tags)
    assert not any("@import" in script for script in page.scripts)
    assert any(script.lstrip().startswith("/**\n* plotly.js") for script in page.scripts)


def test_the_page_shows_every_point_once_and_the_layers(tmp_path: Path) -> None:
    page = page_of(REPORT, tmp_path)
    markers = [trace for trace in page.traces if trace["mode"] == "markers"]
    drawn = sum(len(trace["x"]) for trace in markers)
    assert drawn == len(REPORT.points) - 1  # the dense model's prediction gives way to its measurement
    names = {trace["name"] for trace in page.traces}
    assert names >= {"winner", "front", "front, predicted", "trials of the search", "dense", "onnxruntime"}
    symbols = {trace["name"]: trace["marker"]["symbol"] for trace in markers}
    assert len({symbol.removesuffix("-open") for symbol in symbols.values()}) == 6
    assert symbols["trials of the search"].endswith("-open")
    assert "error_y" not in next(trace for trace in markers if trace["name"] == "trials of the search")
    assert "error_x" in next(trace for trace in markers if trace["name"] == "finalists of the search")
    for text in ("/body/Conv_2", "shared_index_r4_v6", "not faster: 0.63 ms, dense 0.6 ms", "4.68×", "90%"):  # noqa: RUF001
        assert text in page.text


def test_every_artifact_is_named_and_the_winners_first(tmp_path: Path) -> None:
    page = page_of(REPORT, tmp_path)
    digest, directory = "3" * 64, f"artifacts/{'3' * 16}"
    assert f"Winner: search 3, in {directory}, digest {digest}" in page.text
    titles = [found["title"] for tag, found in page.tags if tag == "code" and "title" in found]
    assert sorted(titles) == [digit * 64 for digit in "1234"]
    for digit in "1234":
        assert f"artifacts/{digit * 16}" in page.text
    assert f"★ winner: {directory}" in table_text(REPORT, 80)
    assert "Winner:" not in page_of(replace(REPORT, winner=None), tmp_path).text


def test_the_page_states_the_terms_of_the_comparison(tmp_path: Path) -> None:
    page = page_of(REPORT, tmp_path)
    for text in ("Comparison", "sha256 " + MODEL[:16], "fitted on at most 128 samples", "0, 1, 2", "at the ratios of"):
        assert text in page.text
    for text in ("311 M", "333 k", "after training, structured, dense-to-sparse, static", "784 k"):
        assert text in page.text
    assert "not stated" in page_of(replace(REPORT, comparison=None), tmp_path).text


def test_hover_shows_the_plan_and_where_figures_come_from() -> None:
    text = hover_text(REPORT, REPORT.winning_point)
    for part in ("search 3", "2.08 ms", "measured", "held-out", "/body/Conv_1: block4x1@0.9", "2.31",
                 "311 M FLOPs, 333 k parameters", "after training, structured"):  # fmt: skip
        assert part in text
    many = Plan.of(MODEL, {f"layer{i:02}": parse_choice("2:4") for i in range(HOVER_LAYERS + 3)})
    text = hover_text(REPORT, replace(REPORT.points[1], plan=many))
    assert "… and 3 layers more" in text
    assert text.count("2:4") == HOVER_LAYERS


def test_nothing_from_outside_is_read_as_markup(tmp_path: Path) -> None:
    page, plain = page_of(hostile(), tmp_path), page_of(REPORT, tmp_path)
    tags = [tag for tag, _ in page.tags]
    assert tags.count("script") == [tag for tag, _ in plain.tags].count("script")
    assert "img" not in tags
    assert "b" not in tags
    assert not any(name.startswith("on") for _, found in page.tags for name in found)
    assert page.text.count(HOSTILE) >= 6
    for trace in page.traces:
        for text in [trace["name"], *trace.get("hovertext", [])]:
            assert not re.search(r"<(?!br>|/?b>)", text)
    assert HOSTILE.split("<")[0] in table_text(hostile(), 400)
    assert "[bold]" in table_text(hostile(), 400)


@pytest.mark.parametrize("name", AWKWARD)
def test_awkward_fronts_can_be_drawn(name: str, tmp_path: Path) -> None:
    report = AWKWARD[name]
    front_png(report, tmp_path / "front.png")
    page_of(report, tmp_path)
    assert table_text(report, 60)
    assert headline(report)


def test_the_picture_is_a_picture_and_always_the_same(tmp_path: Path) -> None:
    front_png(REPORT, tmp_path / "1.png")
    front_png(REPORT, tmp_path / "2.png")
    assert (tmp_path / "1.png").read_bytes() == (tmp_path / "2.png").read_bytes()
    with Image.open(tmp_path / "1.png") as image:
        assert image.size == (1800, 1080)
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
    colours = {tuple(colour) for colour in pixels}
    for colour in ((0x2F, 0x6F, 0xDE), (0x12, 0xA1, 0x50), (0xE0, 0x8A, 0x00), (0xB5, 0x30, 0x9C), (0x64, 0x74, 0x8B),
                   (0x0D, 0x94, 0x88)):  # fmt: skip
        assert colour in colours


@pytest.mark.parametrize("draw", [front_png, front_html])
def test_a_place_that_cannot_be_written(draw, tmp_path: Path) -> None:
    with pytest.raises(HwsparseError, match="cannot be written"):
        draw(REPORT, tmp_path / "missing" / "front")


def test_the_picture_looks_where_the_choice_is() -> None:
    shown = view(REPORT)
    low, high = shown.y_range
    assert low > 0.85  # not down to the collapsed trials
    for timed in (p for p in REPORT.points if p.latency_source == "measured"):
        assert low <= timed.quality <= high
        assert shown.x_range[0] < timed.latency_s * 1e3 < shown.x_range[1]
    hidden = sum(p.quality < low for p in REPORT.points)
    assert f"{hidden} worse points lie below" in shown.legend


def test_the_headline_never_calls_slower_faster() -> None:
    assert headline(REPORT).startswith("2.31× as fast as dense · 2.40× as fast as onnxruntime · 2.08 ms")  # noqa: RUF001
    assert "1.00× as fast as dense" in headline(replace(REPORT, winner="dense"))  # noqa: RUF001
    assert headline(replace(REPORT, winner=None)) == "No plan met the goal"
    assert "nothing was timed" in headline(sample_report(9, measured=False))
