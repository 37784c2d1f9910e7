"""What goes: scores of units, rules, budgets and limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from tests.shrinking.small import PARAMS, deps


def test_a_unit_is_scored_by_its_weights_in_every_kernel():
    up, down = PARAMS["up"]["kernel"], PARAMS["down"]["kernel"]
    scores = np.sum(np.square(up), 0) + np.sum(np.square(down), 1)
    kept = deps().choose(PARAMS, {"up": 0.5}).kept
    assert kept == {"up": tuple(sorted(np.argsort(scores)[4:].tolist()))}


def test_the_lowest_index_goes_first_among_equals():
    ones = jax.tree.map(jnp.ones_like, PARAMS)
    assert deps().choose(ones, {"up": 0.3}).kept == {"up": (2, 3, 4, 5, 6, 7)}


def test_what_is_no_number_stays():
    broken = jax.tree.map(jnp.copy, PARAMS)
    broken["up"]["kernel"] = broken["up"]["kernel"].at[0, 3].set(jnp.nan) * 1e-6
    broken["down"]["kernel"] = broken["down"]["kernel"].at[3].set(0)
    assert 3 in deps().choose(broken, 0.8).kept["up"]


@pytest.mark.parametrize("metric", [jp.L1(), jnp.sqrt])
def test_metrics_are_those_of_importance(metric):
    params = jax.tree.map(jnp.abs, PARAMS)
    scores = jp.importance(params, metric)
    sums = jnp.sum(scores["up"]["kernel"], 0) + jnp.sum(scores["down"]["kernel"], 1)
    kept = deps().choose(params, {"up": 0.5}, metric=metric).kept["up"]
    assert set(kept) == set(np.argsort(sums)[4:].tolist())


def test_gradients_may_score():
    grads = jax.tree.map(jnp.zeros_like, PARAMS)
    grads["up"]["kernel"] = grads["up"]["kernel"].at[:, jnp.array([1, 6])].set(1)
    assert deps().choose(PARAMS, {"up": 0.75}, metric=jp.Taylor(grads)).kept == {"up": (1, 6)}


@pytest.mark.parametrize("amount", [0.15, 0.25, 0.5, 0.75])
def test_every_group_loses_its_fraction_rounded_down(amount):
    kept = deps().choose(PARAMS, amount).kept
    for name, units in (("embed", 6), ("up", 8)):
        assert len(kept.get(name, range(units))) == units - int(amount * units)


@pytest.mark.parametrize("per", ["group", "global"])
@pytest.mark.parametrize("budget", ["weights", "multiply_adds"])
@pytest.mark.parametrize("amount", [0.2, 0.5, 0.7])
def test_a_cost_is_met_to_within_one_unit(per, budget, amount):
    cut = deps().choose(PARAMS, amount, per=per, budget=budget)
    costs = deps().cost(cut)
    left, whole = (getattr(costs, name) for name in (budget, f"of_{budget}"))
    assert left <= (1 - amount) * whole
    # With the best unit that went it would be more.
    scores = {"embed": 6, "up": 8}
    more = []
    for name, kept in cut.kept.items():
        gone = sorted(set(range(scores[name])) - set(kept))
        again = jp.Cut(dict(cut.kept) | {name: (*kept, gone[0])})
        more.append(getattr(deps().cost(again), budget))
    assert max(more) > (1 - amount) * whole


def test_what_is_cut_already_counts_as_gone():
    strongest = deps().choose(PARAMS, {"up": 0.5}).kept["up"]
    strong = strongest[0]
    before = jp.Cut({"up": tuple(k for k in range(8) if k != strong)})
    for per in ("group", "global"):
        cut = deps().choose(PARAMS, {"up": 0.5, "embed": None}, per=per, cut=before)
        assert len(cut.kept["up"]) == 4
        assert strong not in cut.kept["up"]
        assert len({*cut.kept["up"]} & {*strongest}) == 3
    costs = deps().cost(deps().choose(PARAMS, 0.5, budget="weights", cut=before))
    assert costs.weights <= 67
    with pytest.raises(jp.NoMatch, match="cuts no unit of the 1 groups that `cut` does not"):
        deps().choose(PARAMS, {"up": 0.125}, cut=before)
    with pytest.raises(jp.NoMatch, match="cuts no unit of the 2 groups that `cut` does not"):
        deps().choose(PARAMS, 0.05, budget="weights", cut=before)
    with pytest.raises(jp.PruningError, match=r"expected a jp\.Cut"):
        deps().choose(PARAMS, 0.5, cut={"up": (0,)})


def test_costs_count_what_there_is():
    cut = deps().choose(PARAMS, {"up": 0.5})
    small = deps().shrink(PARAMS, cut)
    costs = deps().cost(cut)
    assert costs.weights == sum(leaf.size for leaf in jax.tree.leaves(small))
    assert costs.of_weights == sum(leaf.size for leaf in jax.tree.leaves(PARAMS))
    assert costs.multiply_adds == 5 * (3 * 6 + 6 * 4 + 4 * 6 + 6 * 2)
    assert "82 of 134 weights are left (61.2%)" in str(costs)
    (group,) = [group for group in deps().groups if group.name == "up"]
    assert group.weights * 4 == costs.of_weights - costs.weights
    assert group.multiply_adds * 4 == costs.of_multiply_adds - costs.multiply_adds


def test_global_ranking_takes_more_where_less_matters():
    scaled = jax.tree.map(jnp.copy, PARAMS)
    weak = jnp.where(jnp.arange(8) < 6, 1e-3, 1.0)
    scaled["up"]["kernel"] = scaled["up"]["kernel"] * weak
    scaled["down"]["kernel"] = scaled["down"]["kernel"] * weak[:, None]
    cut = deps().choose(scaled, 0.4, per="global")
    assert sum(n - len(cut.kept.get(name, range(n))) for name, n in (("embed", 6), ("up", 8))) == 5
    assert len(cut.kept["up"]) == 3


def test_no_group_is_emptied_and_none_loses_more_than_most():
    cut = deps().choose(PARAMS, 0.55, per="global", most=0.6)
    assert len(cut.kept["embed"]) == 3
    assert len(cut.kept["up"]) == 4
    with pytest.raises(jp.InvalidSparsity, match="8 units are to go, and only 7 can"):
        deps().choose(PARAMS, 0.6, per="global", most=0.5)
    with pytest.raises(jp.InvalidSparsity, match="raise most, or ask for less"):
        deps().choose(PARAMS, 0.8, most=0.5)
    with pytest.raises(jp.InvalidSparsity, match=r"at most .* of the weights can be cut"):
        deps().choose(PARAMS, 0.9, budget="weights", most=0.5)


def test_sizes_are_multiples_or_whole():
    cut = deps().choose(PARAMS, 0.4, multiple_of=4)
    assert {name: len(kept) for name, kept in cut.kept.items()} == {"embed": 4}
    assert len(deps().choose(PARAMS, 0.5, multiple_of=4).kept["up"]) == 4
    with pytest.raises(jp.NoMatch, match="cuts no unit of the 2 groups"):
        deps().choose(PARAMS, 0.5, multiple_of=8)


def test_rules_name_groups_and_the_first_that_matches_counts():
    assert set(deps().choose(PARAMS, {"up": None, "*": 0.5}).kept) == {"embed"}
    cut = deps().choose(PARAMS, {"u*": 0.25, "*": 0.5})
    assert {name: len(kept) for name, kept in cut.kept.items()} == {"up": 6, "embed": 3}


@pytest.mark.parametrize("amount", [0, 1, 0.0, 1.0, -0.1, 1.5, "half", float("nan"), True])
def test_an_amount_lies_between_0_and_1(amount):
    with pytest.raises(jp.InvalidSparsity, match="an amount is the fraction that is cut, between"):
        deps().choose(PARAMS, amount)


@pytest.mark.parametrize(
    ("choices", "kind", "words"),
    [
        ({"per": "leaf"}, jp.InvalidPattern, 'per is "group" or "global"'),
        ({"budget": "flops"}, jp.InvalidPattern, 'budget is "units", "weights"'),
        ({"most": 1.0}, jp.InvalidSparsity, "most is the largest fraction"),
        ({"multiple_of": 0}, jp.InvalidPattern, "multiple_of is an integer"),
    ],
)
def test_choices_are_refused_in_words(choices, kind, words):
    with pytest.raises(kind, match=words):
        deps().choose(PARAMS, 0.5, **choices)


def test_a_rule_that_cuts_nothing_is_an_error():
    with pytest.raises(jp.NoMatch, match=r"'encoder' matches no group. The groups are embed, up"):
        deps().choose(PARAMS, {"encoder": 0.5})
    with pytest.raises(jp.NoMatch, match=r"can be cut. head\[1\]: it is axis 1 of the result"):
        deps().choose(PARAMS, {"head": 0.5})
    with pytest.raises(jp.NoMatch, match="there is only None"):
        deps().choose(PARAMS, {"*": None})
    with pytest.raises(jp.InvalidPattern, match="give all groups one amount"):
        deps().choose(PARAMS, {"up": 0.5, "*": 0.25}, budget="weights")


def test_the_parameters_are_those_of_the_model():
    with pytest.raises(jp.StructureMismatch, match="other paths"):
        deps().choose({"kernel": jnp.ones(3)}, 0.5)
    small = deps().shrink(PARAMS, deps().choose(PARAMS, 0.5))
    with pytest.raises(jp.StructureMismatch, match="pass the whole parameters"):
        deps().choose(small, 0.5)
