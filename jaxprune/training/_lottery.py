"""Lottery tickets: train, prune, rewind, and train again, over any function that trains."""

from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple, get_args

import jax.numpy as jnp

from jaxprune._assign import assign
from jaxprune._errors import PruningError
from jaxprune._metrics import L1, Metric, scores_of
from jaxprune._prune import apply_mask
from jaxprune._text import shown
from jaxprune._tree import is_array, is_traced, leaves, rebuild
from jaxprune._where import Where, is_weight
from jaxprune.tracing._uses import Uses
from jaxprune.training._masks import arrays_like, first_masks, stray_count
from jaxprune.training._next_mask import Before, How, next_masks
from jaxprune.training._rules import Rule
from jaxprune.training._schedules import Schedule

Rewind = Literal["weights", "rate"]


class Ticket(NamedTuple):
    """One round of `lottery_tickets`.

    Attributes:
        round: How often it was pruned: 0 for the dense model.
        params: Where this round's training began, pruned.
        mask: The mask that it kept.
        trained: What it gave.
    """

    round: int
    params: Any
    mask: Any
    trained: Any


def lottery_tickets(
    train: Callable[[Any, Any, range], Any],
    params: Any,
    spec: Any,
    *,
    steps: int,
    rounds: int,
    rewind: Rewind = "weights",
    to: int = 0,
    metric: Metric = L1(),
    where: Where = is_weight,
    uses: Uses | None = None,
) -> Iterator[Ticket]:
    """Prunes round by round, each time rewinding and training again.

    Every round removes the same part of what is left: after round i of r the sparsity is
    1 - (1 - s)^(i / r), with s the spec's, and exactly s after the last. Weights that are gone stay
    gone.

    - Rewound to the beginning: Frankle and Carbin, "The lottery ticket hypothesis", 2019.
    - `to=k`, to the weights after k updates: Frankle et al., "Linear mode connectivity and the
      lottery ticket hypothesis", 2020. Larger models need it.
    - `rewind="rate"`, the trained weights go on, and only the learning rate goes back to update k:
      Renda et al., "Comparing rewinding and fine-tuning in neural network pruning", 2020.

    Args:
        train: Called with parameters, a mask (all True at first) and the range of updates to make;
            returns trained parameters in which the mask is kept, as `keep_mask` keeps it. It must
            begin with a new optimizer state, and take batches and the learning rate by the number
            of the update. What it is given are copies, to donate if it likes.
        params: The parameters at initialisation, any tree.
        spec: The pattern and the final sparsity, as for `make_mask`; N:M gets there by steps.
        steps: How many updates a training makes.
        rounds: How often to prune.
        rewind: What goes back to update `to`: "weights", or the learning "rate" alone.
        to: The count of updates to go back to.
        metric: How trained weights are scored.
        where: Which leaves may be pruned.
        uses: What `trace` read from the model: it answers "input" and "output", and by default the
            leaves that products and convolutions read are pruned.

    Returns:
        The rounds, one by one as they are trained: round 0 is dense, the last meets the spec.

    Raises:
        PruningError: As `make_mask` does; or an argument is wrong; or, in a round, `train` did not
            keep the mask, or returned NaN.

    Examples:
        >>> import jax, jax.numpy as jnp, jaxprune as jp, optax
        >>> def train(params, mask, steps):
        ...     tx = optax.chain(optax.sgd(0.1), jp.keep_mask(mask))
        ...     state = tx.init(params)
        ...     for _ in steps:
        ...         grads = jax.grad(lambda w: jnp.sum((w - jnp.arange(4.0)) ** 2))(params)
        ...         updates, state = tx.update(grads, state, params)
        ...         params = optax.apply_updates(params, updates)
        ...     return params
        >>> for ticket in jp.lottery_tickets(train, jnp.ones(4), 0.5, steps=9, rounds=2):
        ...     print(ticket.round, ticket.params)
        0 [1. 1. 1. 1.]
        1 [0. 1. 1. 1.]
        2 [0. 0. 1. 1.]
    """
    _check(train, steps, rounds, rewind, to)
    scores_of(metric, [])  # refuses what is not a metric
    first = first_masks(params, None, assign(leaves(params), spec, where, uses).members)
    how = How(_by_rounds(rounds), Rule(), metric)

    def trained_from(start: Any, kept: list[Any], updates: range) -> Any:
        # Copies: what trains may donate its arguments.
        trained = train(_copy(start), _copy(rebuild(params, kept)), updates)
        values = arrays_like(params, trained, kept, "what train returned")
        if any(map(is_traced, values)):
            return trained
        broken = [
            leaf.name
            for leaf, mask in zip(leaves(trained), kept, strict=True)
            if mask is not None and bool(jnp.isnan(leaf.value).any())
        ]
        if broken:
            raise PruningError(
                f"train returned weights that are NaN, in {', '.join(broken)}: no score can rank "
                "them. Train at a lower rate, or from a later update with to=."
            )
        moved = int(stray_count(kept, values))
        if moved:
            raise PruningError(
                f"train returned {moved} weights that are not zero, although its mask does not "
                "keep them: end its optimizer with jp.keep_mask(mask)."
            )
        return trained

    def play() -> Iterator[Ticket]:
        kept = first
        start = trained_from(params, kept, range(to)) if to else params
        trained = trained_from(start, kept, range(to, steps))
        yield Ticket(0, start, rebuild(params, kept), trained)
        for i in range(1, rounds + 1):
            assignment = assign(leaves(trained), spec, where, uses)
            kept, _ = next_masks(assignment, Before(kept, (), (), None), how, i, True)
            mask = rebuild(params, kept)
            ticket = apply_mask(start if rewind == "weights" else trained, mask)
            trained = trained_from(ticket, kept, range(to, steps))
            yield Ticket(i, ticket, mask, trained)

    return play()


def _copy(tree: Any) -> Any:
    return rebuild(tree, [jnp.copy(v) if is_array(v) else v for _, v in leaves(tree)])


def _by_rounds(rounds: int) -> Schedule:
    def sparsity(count: Any, target: Any) -> Any:
        return target if count == rounds else 1 - (1 - target) ** (count / rounds)

    return Schedule(lambda count: count > 0, sparsity, last=rounds, name="lottery_tickets")


def _check(train: Any, steps: Any, rounds: Any, rewind: Any, to: Any) -> None:
    if not callable(train):
        raise PruningError(f"train is a function of (params, mask, steps), got {shown(train)}.")
    for name, value, least in (("steps", steps, 1), ("rounds", rounds, 1), ("to", to, 0)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise PruningError(
                f"{name} is a Python integer of {least} or more, got {shown(value)}."
            )
    if to >= steps:
        raise PruningError(f"to={to} leaves nothing to train again of steps={steps}: go back more.")
    if rewind not in get_args(Rewind):
        raise PruningError(f'rewind is "weights" or "rate", got {shown(rewind)}.')
