"""Positions as units: products, sums, and what joining them refines."""

import numpy as np
import pytest

from jaxprune.shrinking._blocks import (
    ONE,
    Misfit,
    atoms,
    join,
    joined_end_to_end,
    pin,
    product,
    root,
    split,
    take_apart,
    units,
)
from jaxprune.shrinking._positions import count, kept_positions, unit_positions


def left(block, **kept):
    """Which positions stay, given those of units by their size in words: n4=[0, 1]."""

    def of(unit):
        found = np.ones(unit.size, bool)
        if f"n{unit.size}" in kept:
            found[:] = False
            found[kept[f"n{unit.size}"]] = True
        return found

    return np.flatnonzero(kept_positions(block, of)).tolist()


def test_a_reshape_splits_units_for_all_who_hold_them():
    wide = units(12)
    kernel = product([wide])
    heads, features = split(wide, 3)
    assert atoms(kernel) == [heads, features]
    assert left(kernel, n4=[0, 3]) == [0, 3, 4, 7, 8, 11]
    assert left(kernel, n3=[1]) == [4, 5, 6, 7]
    assert count(kernel, {heads: 2, features: 3}) == 6


def test_a_slice_takes_units_apart_for_all_who_hold_them():
    wide = units(7)
    first, rest = take_apart(wide, [3, 4])
    assert atoms(wide) == [first, rest]
    assert left(wide, n4=[3]) == [0, 1, 2, 6]
    assert [numbers.tolist() for numbers in unit_positions(wide, rest)] == [
        [-1, -1, -1, 0, 1, 2, 3]
    ]


def test_joining_sums_with_other_ends_refines_both():
    one, other = units(10), units(10)
    take_apart(one, [3, 7])
    take_apart(other, [5, 5])
    join(one, other, "")
    assert root(one) is root(other)
    assert [unit.size for unit in atoms(one)] == [3, 2, 5]


def test_joining_a_sum_of_equal_pieces_with_a_product_makes_the_pieces_one():
    fused, heads = units(24), units(24)
    queries, keys, values = take_apart(fused, [8, 8, 8])
    three, each = split(heads, 3)
    join(fused, heads, "")
    assert root(queries) is root(keys) is root(values) is root(each)
    assert atoms(three) == [ONE] * 3
    assert left(fused, n8=[1]) == [1, 9, 17]


def test_pieces_of_different_sizes_are_reshaped_into_units_of_one_size():
    fused = joined_end_to_end([units(8), units(4)])
    heads, features = split(fused, 3)
    assert [unit.size for unit in atoms(heads)] == [2, 1]
    assert features.size == 4
    assert left(fused, n4=[2], n2=[1]) == [6, 10]


def test_pieces_smaller_than_what_they_are_reshaped_into_make_it_together():
    channels = [units(4), units(6)]
    patches = joined_end_to_end(channels * 6)
    rows, columns, whole = units(3), units(2), units(10)
    join(patches, product([rows, columns, whole]), "misfit")
    assert atoms(rows) == [ONE] * 3
    assert [unit.size for unit in atoms(whole)] == [4, 6]
    assert left(patches, n4=[3], n6=[0, 1]) == [n + k for n in range(0, 60, 10) for k in (3, 4, 5)]
    with pytest.raises(Misfit):
        split(joined_end_to_end([units(4), units(6), units(2)]), 2)


def test_what_has_no_common_refinement_is_kept():
    one, other = units(24), units(24)
    split(one, 6)
    split(other, 4)
    join(one, other, "misfit")
    assert {unit.why for unit in (*atoms(one), *atoms(other))} == {"misfit"}


def test_products_are_refined_where_they_can_be():
    one, other = units(24), units(24)
    split(one, 6)
    split(other, 2)
    join(one, other, "misfit")
    assert [unit.size for unit in atoms(one)] == [2, 3, 4]
    assert atoms(one) == atoms(other)


@pytest.mark.parametrize("first", [0, 1])
def test_what_is_kept_stays_kept_when_it_is_joined(first):
    pair = [units(6), units(6)]
    pin(pair[first], "input")
    split(pair[1 - first], 2)
    join(*pair, "")
    assert {unit.why for block in pair for unit in atoms(block)} == {"input"}
    pin(pair[0], "later")
    assert {unit.why for unit in atoms(pair[0])} == {"input"}


def test_a_size_that_does_not_divide_is_a_misfit():
    with pytest.raises(Misfit):
        split(units(7), 2)
    with pytest.raises(Misfit):
        split(joined_end_to_end([units(3), units(5)]), 4)
    with pytest.raises(Misfit):
        take_apart(product([units(3), units(4)]), [6, 6])


def test_positions_of_units_that_occur_twice():
    half = units(3)
    rotary = joined_end_to_end([half, half])
    heads = product([units(2), rotary])
    found = unit_positions(heads, half)
    assert [numbers.tolist() for numbers in found] == [
        [0, 1, 2, -1, -1, -1] * 2,
        [-1, -1, -1, 0, 1, 2] * 2,
    ]
