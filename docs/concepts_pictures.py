"""Draws the pictures of docs/concepts.md from real masks: `python docs/concepts_pictures.py`.

They are readable on a light and on a dark page: colours of medium lightness, no background.
"""

import pathlib
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias
from xml.sax.saxutils import escape

import numpy as np

import jaxprune as jp

Values: TypeAlias = np.ndarray[Any, Any]

HERE = pathlib.Path(__file__).parent / "pictures" / "concepts"
CELL, GAP, SIDE = 13, 5, 8
INK, KEPT = "#7d828c", "#2a9085"
FONT = "ui-monospace, SFMono-Regular, Menlo, Consolas, monospace"
LEVELS = 6  # shades of colour for the scores of kept weights


def text(x: float, y: float, words: str, size: float = 11, style: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}" font-size="{size:g}" {style}>{escape(words)}</text>'


def squares(corners: Sequence[tuple[float, float]], side: float, style: str) -> str:
    outline = "".join(f"M{x:g} {y:g}h{side:g}v{side:g}h-{side:g}z" for x, y in corners)
    return f'<path d="{outline}" stroke-linejoin="round" {style}/>'


def grid(
    x: float, y: float, scores: Values, kept: Values, group: tuple[int, int] = (SIDE, SIDE)
) -> Iterable[str]:
    """A matrix, with gaps between groups of weights.

    Kept weights are filled, with a stronger colour for a higher score. Pruned ones are outlines.
    """
    shade = np.round((scores - scores.min()) / np.ptp(scores) * (LEVELS - 1)).astype(int)
    cells: dict[int, list[tuple[float, float]]] = {level: [] for level in range(-1, LEVELS)}
    for (row, column), stays in np.ndenumerate(kept):
        down = y + row * CELL + row // group[0] * GAP
        right = x + column * CELL + column // group[1] * GAP
        cells[int(shade[row, column]) if stays else -1].append((right + 1, down + 1))
    for level, corners in cells.items():
        if level >= 0:
            opacity = 0.35 + 0.65 * level / (LEVELS - 1)
            style = f'fill="{KEPT}" fill-opacity="{opacity:.2f}"'
            yield squares(corners, CELL - 2, style)
        else:
            inner = [(left + 0.5, top + 0.5) for left, top in corners]
            yield squares(inner, CELL - 3, f'fill="none" stroke="{INK}" stroke-opacity="0.45"')


def picture(name: str, width: int, height: int, title: str, parts: Sequence[str]) -> None:
    HERE.mkdir(parents=True, exist_ok=True)
    body = "\n".join(parts)
    (HERE / f"{name}.svg").write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" role="img" font-family="{FONT}" fill="{INK}">\n'
        f"<title>{escape(title)}</title>\n{body}\n</svg>\n"
    )


def specs(scores: Values) -> None:
    """What each spec removes of one matrix of 8 inputs (rows) and 8 outputs (columns)."""
    whole = np.ones(scores.shape, bool)
    whole = (SIDE, SIDE)
    panels = [
        ("scores", None, whole),
        ("Unstructured(0.5)", jp.Unstructured(0.5), whole),
        ("… per='output'", jp.Unstructured(0.5, per="output"), (8, 1)),
        ("… per='input'", jp.Unstructured(0.5, per="input"), (1, 8)),
        ("Rows(0.5)", jp.Rows(0.5), whole),
        ("Columns(0.5)", jp.Columns(0.5), whole),
        ("Block(0.5, (2, 2))", jp.Block(0.5, (2, 2)), (2, 2)),
        ("Block(0.5, (4, 2))", jp.Block(0.5, (4, 2)), (4, 2)),
        ("NM(2, 4)", jp.NM(2, 4), (1, 4)),
        ("… axis='input'", jp.NM(2, 4, axis="input"), (4, 1)),
        ("NM(1, 4)", jp.NM(1, 4), (1, 4)),
        ("NM(4, 8)", jp.NM(4, 8), (1, 8)),
    ]
    across, wide = 4, SIDE * (CELL + GAP) + 24
    parts: list[str] = []
    y = 22
    for first in range(0, len(panels), across):
        together = panels[first : first + across]
        for i, (name, spec, group) in enumerate(together):
            kept = np.ones(scores.shape) if spec is None else np.asarray(jp.make_mask(scores, spec))
            cells = grid(i * wide + 4, y, scores, kept, group)
            parts += [text(i * wide + 4, y - 8, name), *cells]
        y += SIDE * CELL + max(SIDE // group[0] - 1 for *_, group in together) * GAP + 38
    picture("specs", across * wide - 16, y - 34, "What each spec removes of one matrix", parts)


def budgets(scores: Values) -> None:
    """Two leaves, one with smaller weights: half is removed per leaf, and half globally."""
    two = {"large": {"kernel": scores}, "small": {"kernel": scores[:, ::-1] * 0.6}}
    parts: list[str] = []
    wide = SIDE * CELL + 36
    for i, per in enumerate(("leaf", "global")):
        mask = jp.make_mask(two, jp.Unstructured(0.5, per=per))
        x = i * (2 * wide + 40) + 4
        parts.append(text(x, 16, f"Unstructured(0.5, per={per!r})"))
        for j, (name, leaf) in enumerate(two.items()):
            kept = np.asarray(mask[name]["kernel"])
            opacity = 1.0 if name == "large" else 0.6
            cells = grid(x + j * wide, 28, leaf["kernel"], kept)
            parts += [f'<g opacity="{opacity}">', *cells, "</g>"]
            left = f"{name}: {kept.sum()} of {kept.size}"
            parts.append(text(x + j * wide, 28 + SIDE * CELL + 18, left, 10))
    title = "A budget for each leaf, and one for all"
    picture("budgets", 4 * wide + 16, 28 + SIDE * CELL + 26, title, parts)


def pipeline() -> None:
    """Weights, scores, mask and pruned weights, with the calls between them."""
    weights = np.array([[0.9, -0.2, 0.4], [-0.1, 0.7, -0.6], [0.3, -0.8, 0.0]], np.float32)
    scores = jp.importance(weights, jp.L1())
    mask = jp.make_mask(scores, 0.5)
    kept, pruned = np.asarray(mask), jp.apply_mask(weights, mask)
    steps = [
        ("params", weights, "importance", "metric"),
        ("scores", scores, "make_mask", "spec"),
        ("mask", kept, "apply_mask", "params"),
        ("pruned", pruned, None, None),
    ]
    cell, gap, top = 38, 84, 30
    centred = 'text-anchor="middle"'
    parts: list[str] = []
    for i, (name, values, call, given) in enumerate(steps):
        x, level = i * (3 * cell + gap) + 4, top + 1.5 * cell
        parts.append(text(x + 1.5 * cell, top - 12, name, 13, centred))
        for (row, column), value in np.ndenumerate(np.asarray(values)):
            at = x + column * cell + 1, top + row * cell + 1
            stays = kept[row, column] or name in ("params", "scores")
            fill = f'fill="{KEPT}"' if stays else f'fill="none" stroke="{INK}" opacity="0.5"'
            word = f"{value:.1f}" if name != "mask" else "kept" if value else ""
            ink = f'{centred} fill="{"#fff" if stays else INK}"'
            parts.append(squares([at], cell - 2, fill))
            parts.append(text(at[0] + cell / 2 - 1, at[1] + cell / 2 + 3, word, 12, ink))
        if call:
            left, right = x + 3 * cell + 8, x + 3 * cell + gap - 8
            parts.append(
                f'<path d="M{left:g} {level:g}H{right:g}m-6 -4l6 4l-6 4" fill="none" '
                f'stroke="{INK}" stroke-width="1.4"/>'
            )
            parts.append(text((left + right) / 2, level - 9, call, 11, centred))
            parts.append(text((left + right) / 2, level + 18, given, 11, centred))
    width = 4 * 3 * cell + 3 * gap + 8
    picture("pipeline", width, top + 3 * cell + 4, "params, scores, mask, pruned", parts)


def main() -> None:
    rng = np.random.default_rng(4)
    noise = rng.permutation(SIDE * SIDE).reshape(SIDE, SIDE) + 1.0
    slope = 14 * np.sin(np.arange(SIDE) * 1.9)
    scores = (noise + slope + slope[::-1, None]).astype(np.float32)  # rows and columns that differ
    specs(scores - scores.min() + 1)
    budgets(scores - scores.min() + 1)
    pipeline()


if __name__ == "__main__":
    main()
