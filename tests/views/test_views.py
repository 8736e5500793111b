"""Views of a plan: complete, well formed, readable without anything from elsewhere, every step linked to its line."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

import bilevel
from bilevel import pipeline
from bilevel.costs import reference
from bilevel.plan_json import plan_json
from bilevel.views import FORMATS, Document, read
from bilevel.views.colours import DARK, LIGHT
from bilevel.views.document import si
from bilevel.views.layout import layout

NAMES = ("maml_sine", "hpo", "reptile")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def document(name: str) -> Document:
    """Through JSON text, as another program would get it."""
    return read(json.loads(json.dumps(plan_json(pipeline.plan(bilevel.load(name).program)))))


class Tags(HTMLParser):
    """The tags of a page, whether they close, and what they name."""

    VOID = ("meta", "br", "link")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize("name", NAMES)
def test_the_page_is_whole_and_stands_alone(name: str) -> None:
    plan = document(name)
    text = FORMATS["html"](plan)
    tags = Tags(text)
    assert tags.open == []
    assert not {"script", "link", "img", "iframe", "object"} & {tag for tag, _ in tags.found}
    assert set(re.findall(r"https?://[^\"' )]*", text)) == {"http://www.w3.org/2000/svg"}
    identities = [a["id"] for _, a in tags.found if "id" in a]
    assert len(identities) == len(set(identities))
    for node in plan.nodes:
        assert node.identity in identities and node.place.identity in identities
        assert ("a", f"#{node.place.identity}") in [(tag, a.get("href")) for tag, a in tags.found]
        assert f"body:has(#{node.identity}:hover,#{node.identity}:focus) #{node.place.identity}" in text
    for candidate in (one for h in plan.hypergradients for one in h.candidates):
        assert f'<td class="mode"><code>{candidate.mode}</code>' in text
    for fact in plan.facts:
        assert fact.place.identity in identities and escape(fact.text) in text


@pytest.mark.parametrize("name", NAMES)
def test_every_line_of_every_file_is_shown(name: str) -> None:
    plan = document(name)
    tags = Tags(FORMATS["html"](plan))
    lines = [a["id"] for _, a in tags.found if a.get("class") == "line"]
    assert len(lines) == sum(len(text.rstrip("\n").split("\n")) for text in plan.sources.values())
    assert next(iter(plan.sources)) == f"{name}.bl"


@pytest.mark.parametrize("name", NAMES)
def test_the_picture_has_every_step_and_edge(name: str) -> None:
    plan = document(name)
    picture = ElementTree.fromstring(FORMATS["svg"](plan))
    space = "{http://www.w3.org/2000/svg}"
    assert len(picture.findall(f".//{space}a")) == len(plan.nodes)
    classes = [p.get("class", "") for p in picture.findall(f".//{space}path") if "edge" in p.get("class", "")]
    assert sorted(classes) == sorted(f"edge {edge.kind}" for edge in plan.edges)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_covers_anything(name: str) -> None:
    plan = document(name)
    placed = layout(plan)
    boxes = list(placed.steps.items())
    for place, (_, a) in enumerate(boxes):
        for _, b in boxes[place + 1 :]:
            assert a.x + a.width <= b.x or b.x + b.width <= a.x or a.y + a.height <= b.y or b.y + b.height <= a.y
    for edge in plan.edges:
        assert placed.steps[edge.tail].x < placed.steps[edge.head].x
    for node in plan.nodes:
        step, lane = placed.steps[node.name], placed.lanes[node.level]
        assert lane.y < step.y and step.y + step.height <= lane.y + lane.height


def test_what_enters_a_level_is_drawn() -> None:
    edges = {(e.tail, e.head) for e in document("reptile").edges}
    assert {("meta.start", "adapt.start"), ("meta.draw", "adapt.draw")} <= edges
    assert ("meta.start", "adapt.gradient") not in edges
    assert ("tune.start", "train.gradient") in {(e.tail, e.head) for e in document("hpo").edges}
    assert ("tune.start", "train.update") in {(e.tail, e.head) for e in document("hpo").edges}


def test_dot_and_mermaid_nest_as_the_levels_do() -> None:
    plan = document("maml_sine")
    text = FORMATS["dot"](plan)
    assert text.count("{") == text.count("}") == 3
    assert text.index("cluster_meta") < text.index("cluster_adapt")
    assert '"step-adapt-pullback" -> "step-meta-gradient" [style=dotted]' in text
    chart = FORMATS["mermaid"](plan)
    assert chart.count("subgraph") == chart.count("\n  end") + chart.count("\n    end") == 2
    assert "s_adapt_pullback -.-> s_meta_gradient" in chart
    for node in plan.nodes:
        assert f'"{node.identity}" [label=' in text and f"s_{node.name.replace('.', '_')}[" in chart


def test_costs_are_shown_where_a_plan_has_them() -> None:
    content = json.loads(json.dumps(plan_json(pipeline.plan(bilevel.load("maml_sine").program))))
    one = content["hypergradients"][0]["candidates"][1]
    one |= {"flop": {"expr": "P*(3*T*g + G)", "value": 278.4e9}, "bytes": {"value": 1.78e9}, "seconds": 0.031}
    text = FORMATS["html"](read(content))
    assert "278 GFLOP<small>P(3Tg + G)</small>" in text and "1.78 GB" in text and "31 ms" in text
    assert "Estimated and measured" not in text
    seconds, held = {"estimate": 0.005, "measured": 0.006, "ratio": 1.2}, {"estimate": None, "measured": 1.93e9}
    row = {"step": "adapt forward", "level": "adapt", "depth": 1, "calls": 7, "seconds": seconds, "bytes": held}
    content["measured"] = [row | {"flags": []}]
    text = FORMATS["html"](read(content))
    assert "Estimated and measured" in text
    assert all(
        f">{word}</td>" in text for word in ("&nbsp;&nbsp;adapt forward", "5 ms", "6 ms", "1.20", "-", "1.93 GB")
    )


def test_the_page_says_what_the_plan_rests_on() -> None:
    program = bilevel.compile("maml_sine_quick", limit="memory=1GB", calibration=reference())
    text = FORMATS["html"](read(json.loads(json.dumps(plan_json(program.explained)))))
    assert "Would change the choice" in text and "--allow biased" in text
    assert "limit 1 GB of memory; classes up to exact" in text and reference().identity in text
    assert "theta enters through the start" in text and "T = 5: steps" in text


def test_numbers_have_their_prefix() -> None:
    assert [si(x, "B") for x in (0.0, 12.0, 1500.0, 1.78e9, 2.5e-7)] == ["0 B", "12 B", "1.5 kB", "1.78 GB", "250 nB"]


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize(("palette", "ink"), [(LIGHT, "#1a1a1a"), (DARK, "#ececec")])
def test_text_is_readable_on_every_level(palette: tuple[tuple[str, str], ...], ink: str) -> None:
    """Contrast of 7 to 1 or more: the stricter of the two usual limits (WCAG 2.1, 1.4.6)."""
    for fill, _ in palette:
        light, dark = sorted((luminance(fill), luminance(ink)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 7


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_a_browser_draws_it(tmp_path: Path) -> None:
    (tmp_path / "plan.html").write_text(FORMATS["html"](document("maml_sine")), "utf-8")
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", str(tmp_path / "plan.html")]
    dom = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    assert "How adapt is differentiated" in dom and dom.count('class="line"') == 39


def test_the_keyboard_reaches_everything_in_the_order_of_reading() -> None:
    """What scrolls can be focused, steps and lines of facts are links, and nothing jumps the order."""
    text = FORMATS["html"](document("maml_sine"))
    tags = Tags(text).found
    assert all(a.get("tabindex") == "0" for tag, a in tags if tag == "pre" or a.get("class") == "scroll")
    assert {a.get("tabindex") for _, a in tags} == {None, "0"}
    assert all(a.get("href", "").startswith("#") for tag, a in tags if tag == "a")  # type: ignore[union-attr]
    stops = [tag for tag, a in tags if "tabindex" in a or tag == "a"]
    steps = len(document("maml_sine").nodes)
    assert stops == ["pre", "pre", "div", *["a"] * steps, "div", "div", *["a"] * len(document("maml_sine").facts)]
    for rule in (".scroll:focus-visible", "a:focus-visible", "pre:focus-visible", ".graph a:focus rect"):
        assert rule in text
