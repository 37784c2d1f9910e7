"""The library's words as the command line says them: its remedies are options."""

import re

# In this order: a word, the Python with it in the errors of `jaxprune`, and what is an option.
# Most texts have none of the words, and looking for these takes a hundredth of the time.
_OPTIONS = [
    ("vmap", re.escape("use vmap for several sparsities"), "run it again for another one"),
    (
        "re.compile",
        re.escape("pass re.compile(...) for a regular expression"),
        "* stands for any text",
    ),
    ("where=", r"where=jp\.any_leaf", "--where '*'"),
    (
        "by a rule",
        r"leave it dense by a rule, \{\"(.*?)\": None, \"\*\": \.\.\.\}",
        r"leave it dense with --skip '\1'",
    ),
    (
        "where=",
        r"(?<=Choose others with )where=, for example --where '\*'",
        "--where, such as --where '*'",
    ),
    (
        "the rule '*'",
        r"the rule '\*' changes none of the leaves it covers",
        "nothing is left to prune",
    ),
    (
        "the rule",
        r"the rule ('.*?') changes none of the leaves it covers",
        r"--skip \1 changes nothing",
    ),
    ("leaves it dense", r"\brule ('[^']*') leaves it dense(?= \(\d)", r"--skip \1"),
    ("Write it before", r"Write it before the rules that take them", "Skip other tensors"),
    ("min_nonzero", r"with min_nonzero=1 a leaf,", "with at least one weight left in each tensor,"),
    ("min_nonzero", r"Lower the sparsity or min_nonzero", "Lower --sparsity"),
    ("where=", r"\bwhere=(?=[^\s.,;:)])", "--where "),
    ("where=", r"\bwhere=", "--where"),
    ("Channels", r"use Channels\(\.\.\., axis=(\d+)\)", r"use --spec channels --axis \1"),
    ("Block", r"Block\(0\.5, \(16, 16\)\)", "--spec block=16x16"),
    ("Block", r"Block's shape is", "block=HxW takes"),
    (
        "jp.",
        r"(?:write )?jp\.Unstructured\(0\.5\)(?:, for example)?",
        "--sparsity 0.5",
    ),
    ("expected", r"expected 1 <= n <= m", "N:M needs 1 <= N <= M"),
    ("NM(", r"\bNM\((\d+), (\d+)(?:, axis=[^)]*)?\)", r"--spec \1:\2"),
    ("jp.", r"\bjp\.(?=[A-Z]|any_leaf|plan)", ""),  # no more, for a tensor may be called jp.w
]


def in_options(text: str) -> str:
    """A message or a table of the library, with options in the place of arguments.

    Examples:
        >>> in_options("choose some with where=, or write NM(2, 4).")
        'choose some with --where, or write --spec 2:4.'
    """
    for word, pattern, option in _OPTIONS:
        if word in text:
            text = re.sub(pattern, option, text)
    return text
