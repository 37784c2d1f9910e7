"""The HTML report: whole, escaped, self-contained, right in its numbers; and in a real browser."""

import html.parser
import json
import re
import shutil
import subprocess

import pytest

from jaxprune.cli._page import LeafView, page

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
        self.text[self.open[-1] if self.open else ""] = data
        if "td" in self.open or "th" in self.open:
            self.rows[-1][-1] += data


@pytest.fixture(scope="module")
def text():
    return page(NASTY, LEAVES)


@pytest.fixture(scope="module")
def parsed(text):
    return Parsed(text)


def test_every_leaf_has_a_row_and_the_numbers_are_right(parsed):
    head, *rows = parsed.rows
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
    assert parsed.rows[4][0] == shown
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


def test_a_histogram_is_drawn_to_scale(text, parsed):
    """Heights go as the root of the count, the highest 20 of 20; a histogram of nothing is none."""
    (drawing,) = re.findall(r'<path d="(.*?)"', text)
    assert drawing == "M0 20V13.3h1V6.7h1V20h1V0h1V20"
    (box,) = [attrs for tag, attrs in parsed.tags if tag == "svg"]
    assert (box["viewbox"], box["aria-label"]) == ("0 0 4 20", "Histogram from -0.5 to 1.5")
    assert parsed.rows[2][7] == "-0.51.5"


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
        const rows = () => [...document.querySelectorAll("tbody tr")].filter((row) => !row.hidden);
        const names = () => rows().map((row) => row.cells[0].textContent.slice(0, 9));
        const heads = [...document.querySelectorAll("thead th")];
        const input = document.querySelector("input");
        const click = (column) => { heads[column].firstElementChild.click(); return names(); };
        const type = (text) => {
            input.value = text;
            input.dispatchEvent(new Event("input"));
            return [rows().length, document.querySelector("output").value];
        };
        return {
            names: [click(0), click(0), click(0)],
            weights: click(3),
            sorted: heads.map((head) => head.getAttribute("aria-sort")),
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
        assert seen["focusable"] == 7
        assert seen["fits"]
