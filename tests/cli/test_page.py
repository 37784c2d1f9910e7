"""The HTML report: whole, escaped, self-contained, right in its numbers; and in a real browser."""

import html.parser
import json
import re
import shutil
import subprocess

import numpy as np
import pytest

from jaxprune.cli import main
from jaxprune.cli._page import LeafView, block_of, comparison_page, in_natural_order, page
from jaxprune.io import Overlap

NASTY = "<script>alert('x')</script>&amp;\"é漢 $title ${rows}\x00\ud800"
LEAVES = [
    LeafView("layers_10/kernel", (8, 16), "float32", 128, 64, "2:4 along axis -2", None, True),
    LeafView("layers_2/kernel", (4, 3), "bfloat16", 12, 3, "rows", ((1, 4, 0, 9), -0.5, 1.5), True),
    LeafView("layers_2/bias", (3,), "float32", 3, 0, "dense", ((0, 0), 0.0, 0.0), False),
    LeafView(NASTY, (), "float32", 1, 1, "all zero", None, False),
    LeafView("empty", (0, 4), "int8", 0, 0, "dense", ((), 0.0, 0.0), False),
]
VOID = {"meta", "link", "input", "wbr"}


class Parsed(html.parser.HTMLParser):
    """The rows of a page as the texts of their cells; refuses tags that do not close."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.rows, self.text = [], [], [], {}
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.setdefault(self.open[-1] if self.open else "", data)
        if "td" in self.open or "th" in self.open:
            self.rows[-1][-1] += data


def without_blocks(rows):
    return [row for row in rows if len(row) > 1]


@pytest.fixture(scope="module")
def text():
    return page(NASTY, LEAVES)


@pytest.fixture(scope="module")
def parsed(text):
    return Parsed(text)


def test_every_leaf_has_a_row_and_the_numbers_are_right(parsed):
    head, *rows = without_blocks(parsed.rows)
    assert head == ["Leaf", "Shape", "Type", "Weights", "Zeros", "Sparsity", "Pattern", "Values"]
    assert [row[1:7] for row in rows] == [
        ["8×16", "float32", "128", "64", "50.00%", "2:4 along axis -2"],
        ["4×3", "bfloat16", "12", "3", "25.00%", "rows"],
        ["3", "float32", "3", "0", "0.00%", "dense, out of scope"],
        ["()", "float32", "1", "1", "100.00%", "all zero, out of scope"],
        ["0×4", "int8", "0", "0", "–", "dense, out of scope"],
    ]
    assert [row[0] for row in rows[:3]] == [leaf.path for leaf in LEAVES[:3]]


def test_both_denominators_are_given(text):
    scope, everything = re.findall(r"<div><dt>(.*?)</dt><dd><b>(.*?)</b>(.*?)</dd>", text)
    assert scope == ("Weights in scope", "47.86%", "zero: 67 of 140 weights, in 2 leaves")
    assert everything == ("All parameters", "47.22%", "zero: 68 of 144 weights, in 5 leaves")
    assert "Zeros by themselves make nothing smaller or faster." in text


def test_bars_are_as_long_as_leaves_are_sparse(parsed):
    widths = [attrs["style"] for tag, attrs in parsed.tags if tag == "i"]
    assert widths == [
        f"--part:{part}" for part in ("50.00%", "25.00%", "0.00%", "100.00%", "0.00%")
    ]


def test_a_name_cannot_become_a_tag_or_break_an_attribute(text, parsed):
    assert [tag for tag, _ in parsed.tags].count("script") == 1
    shown = "<script>alert('x')</script>&amp;\"é漢 $title ${rows}\N{REPLACEMENT CHARACTER}?"
    assert without_blocks(parsed.rows)[4][0] == shown
    assert text.count("alert(") == 3  # in the title, the heading and the row
    text.encode("utf-8")


def test_nothing_is_asked_of_the_network(text, parsed):
    assert "//" not in re.sub(r"^\s*//.*$", "", text, flags=re.M)
    references = {
        name: attrs[name] for _, attrs in parsed.tags for name in ("src", "href") if name in attrs
    }
    assert references == {"href": "data:,"}
    (policy,) = [attrs["content"] for _, attrs in parsed.tags if "http-equiv" in attrs]
    assert "default-src 'none'" in policy
    assert "@import" not in text
    assert "url(" not in text


def test_a_histogram_is_drawn_to_scale_and_zeros_apart(text, parsed):
    """Heights go as the root of the count, the highest 20 of 20; a histogram of nothing is none."""
    (drawing,) = re.findall(r'<path d="(.*?)"', text)
    assert drawing == "M6 20V13.3h1V6.7h1V20h1V0h1V20"
    assert text.count('<rect y="15" width="4" height="5"/>') == 1  # a quarter of 20
    box = [attrs for tag, attrs in parsed.tags if tag == "svg"][-1]
    assert (box["viewbox"], box["aria-label"]) == (
        "0 0 10 20",
        "25% zeros; the others from -0.5 to 1.5",
    )
    assert without_blocks(parsed.rows)[2][7] == "-0.51.5"


def test_sparsity_is_charted_by_layer(text):
    chart = re.search(r'<svg class="chart" viewBox="0 0 2 100".*?</svg>', text)[0]
    bars = re.findall(r'<rect x="(.*?)" y="(.*?)" .*? height="(.*?)"><title>(.*?)</title>', chart)
    assert bars == [
        ("0.1", "50", "50", "layers_10/kernel: 50.00%"),
        ("1.1", "75", "25", "layers_2/kernel: 25.00%"),
    ]


def test_many_layers_share_bars():
    leaves = [
        LeafView(f"l{i}/w", (10,), "float32", 10, i % 2 * 10, "", None, True) for i in range(500)
    ]
    chart = re.search(r'<svg class="chart" viewBox="0 0 167 100".*?</svg>', page("x", leaves))[0]
    assert chart.count("<rect") == 167
    assert "<title>l0/w to l2/w: 33.33%</title>" in chart


def test_blocks_have_a_row_of_their_own(text, parsed):
    blocks = [row[0] for row in parsed.rows if len(row) == 1]
    assert blocks == ["layers_22 leaves, 20.00% zero"]
    assert text.count("<tr data-block>") + text.count('class="out" data-block>') == 2


@pytest.mark.parametrize(
    ("path", "block"),
    [
        ("model.layers.11.mlp.up_proj.weight", "model.layers.11"),
        ("encoder/layer_0/attention/query/kernel", "encoder/layer_0"),
        ("h.3.attn.bias", "h.3"),
        ("lm_head.weight", ""),
        ("fc1", ""),
        ("", ""),
    ],
)
def test_a_block_ends_at_the_first_number(path, block):
    assert block_of(path) == block


def test_numbers_are_sorted_as_numbers():
    names = ["layers.10.w", "layers.2.w", "layers.2.b", "embed", "layers.02.w", "9"]
    assert sorted(names, key=in_natural_order) == [
        *("9", "embed", "layers.02.w", "layers.2.b", "layers.2.w", "layers.10.w")
    ]


def test_a_comparison_is_a_page():
    rows = [("l.1.w", Overlap(8, 3, 1, 2, 1.0, 4.0, 0.5)), ("l.1.b", Overlap(2, 2, 0, 0))]
    text = comparison_page(NASTY, rows, ["only in A: <x>"])
    parsed = Parsed(text)
    head, block, first, second = parsed.rows
    assert head[:4] == ["Tensor", "Weights", "Zero in A", "Zero in B"]
    assert head[4:] == ["Only A", "Only B", "IoU", "Drift", "Furthest"]
    assert block == ["l.12 tensors, IoU 0.6250"]
    assert first == ["l.1.w", "8", "50.00%", "37.50%", "1", "2", "0.5000", "0.5", "0.5"]
    assert second[1:4] == ["2", "0.00%", "0.00%"]
    assert "<li>only in A: &lt;x&gt;</li>" in text
    # On a phone, where there are no columns, a bar says itself what it is.
    assert text.count('<div class="bar" data-label="zero in A">') == 2
    assert "div[data-label]::before { content: attr(data-label)" in text
    assert [tag for tag, _ in parsed.tags].count("script") == 1


def test_the_command_writes_names_as_in_the_file_in_natural_order(tmp_path):
    names = [f"m.l.{i}.weight" for i in (10, 2)] + ["m.norm.weight"]
    one = {name: np.eye(4, dtype=np.float32) for name in names}
    np.savez(tmp_path / "a.npz", **one)
    np.savez(tmp_path / "b.npz", **{name: 2 * array for name, array in one.items()})
    out = tmp_path / "page.html"
    assert main(["report", str(tmp_path / "a.npz"), "--html", str(out), "--skip", "m.l.10.*"]) == 0
    rows = Parsed(out.read_text("utf-8")).rows[1:]
    assert [row[0] for row in rows] == ["m.l.2.weight", "m.l.10.weight", "m.norm.weight"]
    assert [row[6].endswith("out of scope") for row in rows] == [False, True, True]
    two = [str(tmp_path / name) for name in ("a.npz", "b.npz")]
    assert main(["compare", *two, "--html", str(out)]) == 0
    rows = Parsed(out.read_text("utf-8")).rows[1:]
    assert [row[0] for row in rows] == ["m.l.2.weight", "m.l.10.weight", "m.norm.weight"]
    assert rows[0][7] == "1"
    assert main(["compare", *two, "--html", two[1]]) == 2


def test_without_leaves_it_is_still_a_page():
    parsed = Parsed(page("none", []))
    assert len(parsed.rows) == 1
    assert parsed.text["title"] == "none"


# --- in a browser -------------------------------------------------------------------------------

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
QUIET = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-extensions",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def visit(folder, visitor, width):
    """What a script returns that a visitor runs on the page."""
    script = f"<script>document.title = JSON.stringify((() => {{{visitor}}})())</script></body>"
    file = folder / "page.html"
    file.write_text(page("report", LEAVES).replace("</body>", script), encoding="utf-8")
    done = subprocess.run(
        [
            CHROMIUM,
            *QUIET,
            f"--user-data-dir={folder / 'user'}",
            f"--window-size={width},900",
            "--dump-dom",
            file.as_uri(),
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return json.loads(Parsed(done.stdout).text["title"])


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on PATH")
def test_a_visitor_sorts_and_searches(tmp_path):
    visitor = """
        const shown = (kind) => [...document.querySelectorAll(kind)].filter((row) => !row.hidden);
        const rows = () => shown("tbody tr:not(.block)");
        const names = () => rows().map((row) => row.cells[0].textContent.slice(0, 9));
        const heads = [...document.querySelectorAll("thead th")];
        const input = document.querySelector("input");
        const click = (column) => { heads[column].firstElementChild.click(); return names(); };
        const type = (text) => {
            input.value = text;
            input.dispatchEvent(new Event("input"));
            return [rows().length, document.querySelector("output").value];
        };
        const count = () => shown(".block").length;
        const blocks = count();
        return {
            names: [click(0), click(0), click(0)],
            weights: click(3),
            sorted: heads.map((head) => head.getAttribute("aria-sort")),
            blocks: [blocks, click(0) && count(), click(0) && click(0) && count()],
            found: [type("LAYERS_2"), type("layers 2:4"), type("nothing"), type("")],
            focusable: heads.filter((head) => head.querySelector("button")).length,
            fits: document.documentElement.scrollWidth <= innerWidth,
        };
    """
    for width in (500, 1030, 1280):
        seen = visit(tmp_path, visitor, width)
        nasty = NASTY[:9]
        file_order = ["layers_10", "layers_2/", "layers_2/", nasty, "empty"]
        by_name = [nasty, "empty", "layers_2/", "layers_2/", "layers_10"]
        assert seen["names"] == [by_name, by_name[::-1], file_order]
        assert seen["weights"] == ["layers_10", "layers_2/", "layers_2/", nasty, "empty"]
        assert seen["sorted"] == [*["none"] * 3, "descending", *["none"] * 3, None]
        assert seen["found"] == [
            [2, "2 of 5 leaves"],
            [1, "1 of 5 leaves"],
            [0, "0 of 5 leaves"],
            [5, "5 leaves"],
        ]
        assert seen["blocks"] == [1, 0, 1]
        assert seen["focusable"] == 7
        assert seen["fits"]
