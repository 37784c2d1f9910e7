"""What a leaf is, by its name and its module's: a weight, or something else.

Names are those of public models in Flax, Haiku, Equinox, Keras and PyTorch: `tests/test_where.py`
lists them.
"""

import functools
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from jaxprune._tree import is_array, is_prunable


def _names(*alternatives: str) -> re.Pattern[str]:
    return re.compile("|".join(alternatives) or "(?!)", re.IGNORECASE)


class _Kind(NamedTuple):
    """What a leaf is if it is no weight, and the names that say so.

    Attributes:
        what: The word for it.
        own: The leaf's own name.
        module: That of its module, which counts where the leaf is called `weight` or the like.
        above: Any name on its path.
    """

    what: str
    own: re.Pattern[str] = _names()
    module: re.Pattern[str] = _names()
    above: re.Pattern[str] = _names()


# Names that mention a table of vectors and belong to what maps into or out of one.
_NO_TABLE = (
    "(?!.*(proj|mapping|mixing|mixer|logits|transform|dense|linear|conv|mlp|unembed)"
    "|patch_?embed|.*embed_out)"
)
_TABLES = (
    f"{_NO_TABLE}.*(embed|token|codebook|codevector).*",
    r"wte|wpe|emb|.*_embs?|shared|(\w+_)?prompts?",
)

_KINDS = (
    _Kind(
        "bias",
        own=_names(
            ".*bias.*",
            r"beta_?\d*",
            "offset",
            r"b_(in|out|gate|[qkvou])",
            r"\w*(query|key|value|gating|output)_b",
        ),
        module=_names("(?!.*proj).*bias.*"),
    ),
    _Kind(
        "norm scale or statistic",
        own=_names(
            ".*scale.*", r"gamma_?\d*", "(.*_)?(mean|var|variance)", ".*norm", "temperature"
        ),
        module=_names(
            ".*norm.*",
            r"(ln|bn|gn)(_?\w*\d+\w*|_\w+)?",
            "(mean|var)_ema",
            r"ls\d*",
            ".*layer_?scale.*",
        ),
    ),
    _Kind(
        "embedding",
        own=_names(*_TABLES, "cls", "pe", "probe", r"(\w+_)?latents?"),
        module=_names(*_TABLES, r"(\w+_)?latents"),
    ),
    _Kind(
        "code of positions",
        own=_names(
            r"rel(ative)?_pos.*",
            r"(\w+_)?freqs?(_\w+)?",
            "(cos|sin)(_cached)?",
            r"(\w+_)?gaussian_matrix",
            r"relative_coords_table",
        ),
        module=_names("rel_pos.*"),
    ),
    _Kind(
        "state space's decay",
        own=_names(
            "a_log|a_logs|log_a(_real)?|a_imag",
            r"lambda_(re|im)",
            "log_(dt|step)",
            r"time_(decay|first|faaaa|mix|maa)(_\w+)?",
        ),
    ),
    _Kind(
        "low-rank adapter",
        own=_names(r"lora_\w+"),
        module=_names("lora"),
        above=_names(r"lora_(kernel_|embedding_)?[ab]|lora_(up|down|magnitude_vector)"),
    ),
    _Kind("router", above=_names(r"(\w+_)?router")),
)
_ABOVE = [(i, kind.above) for i, kind in enumerate(_KINDS) if kind.above != _names()]


def why_no_weight(path: str, leaf: Any) -> str:
    """Why `jp.is_weight` leaves a leaf dense; "" if it is a weight."""
    if not is_prunable(leaf):
        return f"dtype {leaf.dtype}" if is_array(leaf) else "not an array"
    if len(leaf.shape) < 2:
        return f"rank {len(leaf.shape)}"
    if 0 in leaf.shape:
        return "holds no weights"
    parts = path.split("/")
    kinds = _above(parts[-1]).union(*map(_above, parts[:-1]))
    if parts[-1] != "kernel":
        kinds |= _named(parts[-1], _module(parts[:-1]))
    return f"{_KINDS[min(kinds)].what} by name" if kinds else ""


# A model has few names and many leaves: without the caches, matching them takes longest of all
# that is done for a leaf of a large plan.
@functools.lru_cache(1 << 12)
def _named(name: str, module: str) -> frozenset[int]:
    """The kinds that the name of a leaf or of its module tells."""
    hits = (kind.own.fullmatch(name) or kind.module.fullmatch(module) for kind in _KINDS)
    return frozenset(i for i, hit in enumerate(hits) if hit)


@functools.lru_cache(1 << 12)
def _above(name: str) -> frozenset[int]:
    """The kinds that a name anywhere on a path tells."""
    return frozenset(i for i, pattern in _ABOVE if pattern.fullmatch(name))


def _module(parts: Sequence[str]) -> str:
    """The name of a leaf's module: in a list of modules, that of the list if it is a plural.

    `norms/0/weight` is a norm's, and `time_embed/0/weight` is the first of an embedding's layers.
    """
    if len(parts) > 1 and parts[-1].isdecimal() and parts[-2].endswith("s"):
        return parts[-2]
    return parts[-1] if parts else ""
