"""What a cut may say, and what it refuses."""

import numpy as np
import pytest

import jaxprune as jp


@pytest.mark.parametrize("units", [range(3), [0, 1, 2], np.arange(3), np.uint8([0, 1, 2])])
def test_indices_of_every_kind(units):
    cut = jp.Cut({"up": units})
    assert cut == jp.Cut({"up": (0, 1, 2)})
    assert all(type(k) is int for k in cut.kept["up"])


@pytest.mark.parametrize(
    "units", [3, None, "012", (0.7, 1), ("0", "1"), (True, False), np.array([True, False]), [[0]]]
)
def test_what_is_no_index_is_refused_by_the_name_of_its_group(units):
    with pytest.raises(jp.PruningError, match="of 'up' which units stay, by integers such as"):
        jp.Cut({"up": units})


def test_all_bad_groups_are_named_at_once():
    with pytest.raises(jp.PruningError, match=r"(?s)2 problems:.*'up'.*'down'"):
        jp.Cut({"up": 3, "embed": (0,), "down": (0.5,)})


def test_a_cut_is_a_mapping():
    with pytest.raises(jp.PruningError, match="a cut is a mapping such as"):
        jp.Cut([("up", (0, 1))])


@pytest.mark.parametrize("text", ["", "up: 0, 2", '{"up": [0, 2'])
def test_what_is_no_json(text, tmp_path):
    path = tmp_path / "cut.json"
    path.write_text(text)
    for read in (lambda: jp.Cut.from_json(text), lambda: jp.Cut.load(path)):
        with pytest.raises(jp.PruningError, match=r'a cut is JSON such as .*"encoder/up"'):
            read()


def test_json_of_something_else():
    with pytest.raises(jp.PruningError, match="a cut is a mapping such as"):
        jp.Cut.from_json("[0, 1]")
    with pytest.raises(jp.PruningError, match="of 'up' which units stay"):
        jp.Cut.from_json('{"up": [0.5]}')
