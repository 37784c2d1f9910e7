"""The public face: its names, their documentation and signatures, and what importing it costs."""

import ast
import dataclasses
import importlib.metadata
import importlib.resources
import inspect
import os
import pathlib
import re
import subprocess
import sys
import tomllib
import types

import pytest

import jaxprune as jp
from jaxprune import compat, extend

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = pathlib.Path(jp.__file__).parent

# The names that the design fixes, by what they are.
ERRORS = {
    "PruningError",
    "InvalidSparsity",
    "EmptyTensor",
    "NotTwoDimensional",
    "BelowMinNonzero",
    "InvalidPattern",
    "NoMatch",
    "StructureMismatch",
}
METRICS = {"L1", "L2", "TaylorProxy", "Random", "LCG"}
SPECS = {"Unstructured", "Rows", "Columns", "Channels", "NM", "Block"}
FUNCTIONS = {
    "importance",
    "make_mask",
    "apply_mask",
    "prune",
    "mask_from_zeros",
    "pack",
    "unpack",
    "is_weight",
    "any_leaf",
    "report",
    "stats",
    "top_scores",
    "allocate",
    "sensitivity",
    "trace",
    "dependencies",
}

MODULES = {"compat", "extend", "plot"}
PUBLIC = {name: getattr(jp, name) for name in jp.__all__ if name not in MODULES}
PUBLIC |= {f"compat.{name}": getattr(compat, name) for name in ("prune", "importance", "lcg")}
PUBLIC |= {f"plot.{name}": getattr(jp.plot, name) for name in jp.plot.__all__}
IS_FUNCTION = {name for name, thing in PUBLIC.items() if inspect.isfunction(thing)}
IS_CLASS = {name for name, thing in PUBLIC.items() if inspect.isclass(thing)}


# --- names --------------------------------------------------------------------------------------


def test_all_names_what_is_public_and_nothing_else():
    assert len(jp.__all__) == len(set(jp.__all__))
    # These wings have folders; what is public in them is found here.
    folders = {"training", "tracing", "calibration", "shrinking", "cli", "io"}
    assert set(jp.__all__) == {name for name in vars(jp) if not name.startswith("_")} - folders


def test_what_a_spec_of_ones_own_needs_says_what_it_is():
    for name in extend.__all__:
        assert getattr(extend, name).__doc__, name


def test_no_private_name_is_in_all():
    assert not [name for name in jp.__all__ if name.startswith("_")]


def test_no_private_module_leaks():
    modules = {name for name, thing in vars(jp).items() if isinstance(thing, types.ModuleType)}
    public = {name for name in modules if not name.startswith("_")}
    assert public - {"calibration", "cli", "io"} == MODULES | {"training", "tracing", "shrinking"}
    files = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    assert {name for name in files if not name.startswith("_")} == MODULES


def test_a_star_brings_what_all_names():
    namespace = {}
    exec("from jaxprune import *", namespace)
    assert set(namespace) - {"__builtins__"} == set(jp.__all__)


def test_everything_public_is_made_here():
    for name, thing in PUBLIC.items():
        assert thing.__module__.split(".")[0] == "jaxprune", name


def test_the_names_of_the_design_are_here():
    assert set(jp.__all__) >= ERRORS | METRICS | SPECS | FUNCTIONS | MODULES


def test_every_public_name_is_a_function_or_a_class():
    assert set(PUBLIC) == IS_FUNCTION | IS_CLASS


# --- signatures ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("importance", "(params, metric)"),
        ("make_mask", "(scores, spec, *, where=is_weight, uses=None)"),
        ("apply_mask", "(params, mask)"),
        ("prune", "(params, spec, *, metric=L1(), where=is_weight, uses=None)"),
        ("mask_from_zeros", "(params, *, where=is_weight)"),
        ("pack", "(mask)"),
        ("unpack", "(packed, like)"),
        ("is_weight", "(path, leaf)"),
        ("any_leaf", "(path, leaf)"),
        ("stats", "(scores)"),
        ("trace", "(f, params, *inputs)"),
        ("dependencies", "(f, params, *inputs, keep=())"),
        ("top_scores", "(scores, k)"),
        (
            "sensitivity",
            "(loss, params, sparsities, spec=Unstructured(sparsity=0.0, per='leaf', "
            "min_nonzero=1), *, inputs=(), metric=L1(), where=is_weight)",
        ),
        ("compat.importance", "(array, metric='l1_magnitude', seed=0)"),
        ("compat.lcg", "(seed, n)"),
        (
            "compat.prune",
            "(array, *, sparsity, metric='l1_magnitude', granularity='unstructured', "
            "min_nonzero=1, seed=0)",
        ),
    ],
)
def test_signature(name, expected):
    parameters = inspect.signature(PUBLIC[name]).parameters.values()
    shown = inspect.Signature(
        [
            p.replace(
                annotation=p.empty,
                default=_Shown(p.default) if p.default is not p.empty else p.empty,
            )
            for p in parameters
        ]
    )
    assert str(shown) == expected


class _Shown:
    """A default as one would write it."""

    def __init__(self, value):
        self.value = value

    def __repr__(self):
        return getattr(self.value, "__name__", repr(self.value))


@pytest.mark.parametrize(
    ("name", "first"),
    [("report", ["params", "mask"]), ("allocate", ["params", "sparsity", "method"])],
)
def test_data_come_first_and_choices_by_keyword(name, first):
    parameters = inspect.signature(PUBLIC[name]).parameters
    assert list(parameters)[: len(first)] == first
    assert all(
        parameters[p].kind is inspect.Parameter.KEYWORD_ONLY for p in list(parameters)[len(first) :]
    )
    assert parameters["where"].default is jp.is_weight


@pytest.mark.parametrize("name", sorted(IS_FUNCTION))
def test_everything_is_annotated(name):
    signature = inspect.signature(PUBLIC[name])
    assert signature.return_annotation is not signature.empty
    for parameter in signature.parameters.values():
        assert parameter.annotation is not parameter.empty, parameter


# --- documentation ------------------------------------------------------------------------------


def sections(thing):
    """The parts of a Google-style docstring by their headings, and the summary as ""."""
    text = inspect.cleandoc(thing.__doc__)
    parts = re.split(
        r"^(Args|Returns|Raises|Attributes|Examples?|Yields|Note):\n", text, flags=re.M
    )
    return {"": parts[0]} | dict(zip(parts[1::2], parts[2::2], strict=True))


def documented(section):
    """The names at the head of the entries of a section."""
    return re.findall(r"^ {4}\*?(\w+):", section, flags=re.M)


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_everything_has_a_docstring(name):
    """Its own, that starts with a sentence; a dataclass without one makes up its signature."""
    thing = PUBLIC[name]
    assert thing.__doc__
    summary = sections(thing)[""].split("\n\n")[0]
    assert summary.rstrip().endswith("."), summary
    assert not summary.startswith(f"{thing.__name__}(")


@pytest.mark.parametrize("name", sorted(IS_FUNCTION))
def test_documented_arguments_are_those_of_the_signature(name):
    parts = sections(PUBLIC[name])
    assert documented(parts.get("Args", "")) == list(inspect.signature(PUBLIC[name]).parameters)
    assert "Returns" in parts


@pytest.mark.parametrize("name", sorted(IS_CLASS - ERRORS))
def test_documented_attributes_are_the_fields(name):
    cls = PUBLIC[name]
    fields = (
        [f.name for f in dataclasses.fields(cls)] if dataclasses.is_dataclass(cls) else cls._fields
    )
    written = sections(cls).get("Attributes")
    if written is None:  # few words do for few fields: then the summary names them
        assert all(field in cls.__doc__ for field in fields)
    else:
        assert documented(written) == list(fields)


@pytest.mark.parametrize("name", sorted(IS_CLASS))
def test_public_methods_and_properties_have_docstrings(name):
    for attribute, value in vars(PUBLIC[name]).items():
        if attribute.startswith("_") or not isinstance(value, property | types.FunctionType):
            continue
        assert inspect.getdoc(value), f"{name}.{attribute}"


@pytest.mark.parametrize("name", sorted(IS_FUNCTION))
def test_documented_errors_are_errors_of_this_package(name):
    raises = documented(sections(PUBLIC[name]).get("Raises", ""))
    assert set(raises) <= ERRORS


HEADLINE = ["importance", "make_mask", "prune", "report", "plan", "allocate", "stats", "top_scores"]
HEADLINE += ["sensitivity", "trace", "dependencies", *(f"plot.{name}" for name in jp.plot.__all__)]


@pytest.mark.parametrize("name", [*HEADLINE, "compat.prune", "compat.lcg", "is_weight"])
def test_headline_functions_have_an_example(name):
    assert ">>> " in PUBLIC[name].__doc__


def test_the_help_of_prune_lists_the_specs():
    assert all(f"`{name}(" in jp.prune.__doc__ for name in SPECS)


def test_every_module_says_what_it_is_for():
    for path in PACKAGE.rglob("*.py"):
        assert ast.get_docstring(ast.parse(path.read_text())), path.name


# --- errors -------------------------------------------------------------------------------------


def test_errors_are_as_the_design_says():
    found = {
        name
        for name in jp.__all__
        if inspect.isclass(PUBLIC.get(name)) and issubclass(PUBLIC[name], BaseException)
    }
    assert found == ERRORS
    assert jp.PruningError.__bases__ == (ValueError,)
    for name in ERRORS - {"PruningError"}:
        assert PUBLIC[name].__bases__ == (jp.PruningError,)


# --- importing ----------------------------------------------------------------------------------


def run(code):
    """What a fresh interpreter prints, with one CPU and nothing imported."""
    clean = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env=clean | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_brings_jax_and_numpy_and_no_framework():
    imported = run("import sys; from jaxprune import *; print(*sys.modules)").split()
    assert "jax" in imported
    others = {
        "flax",
        "optax",
        "equinox",
        "haiku",
        "torch",
        "tensorflow",
        "chex",
        "orbax",
        "pandas",
        "matplotlib",
    }
    assert not others & set(imported)


def test_importing_alone_waits_for_nothing_heavy():
    """The command line prints its help by then."""
    imported = run("import sys, jaxprune; print(*sys.modules)").split()
    assert not {"jax", "numpy"} & set(imported)


def test_importing_leaves_the_choice_of_devices_open():
    """A module that makes an array wakes JAX up, and then no backend can be configured any more."""
    code = """
import jax
from jaxprune import *
jax.config.update("jax_num_cpu_devices", 3)
print(jax.device_count())
"""
    assert run(code) == "3"


def test_importing_changes_no_configuration_of_jax():
    code = """
import jax
before = dict(jax.config.values)
from jaxprune import *
print(before == dict(jax.config.values))
"""
    assert run(code) == "True"


# --- packaging ----------------------------------------------------------------------------------


def test_types_are_public():
    assert importlib.resources.files("jaxprune").joinpath("py.typed").is_file()


def test_the_version_is_a_version():
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.?(a|b|rc|dev)\d+)?", jp.__version__)


def test_the_version_is_in_one_place():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" in project["project"]["dynamic"]
    assert "version" not in project["project"]
    assert project["tool"]["hatch"]["version"]["path"] == "jaxprune/__init__.py"
    holders = [p.name for p in PACKAGE.rglob("*.py") if f'"{jp.__version__}"' in p.read_text()]
    assert holders == ["__init__.py"]


def test_the_changelog_starts_with_the_version():
    heading = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), flags=re.M)
    assert heading.group(1).strip("[]") in (jp.__version__, "Unreleased")


def test_the_installed_version_is_this_one():
    try:
        installed = importlib.metadata.version("jaxprune")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("jaxprune is not installed here, only on the path")
    assert installed == jp.__version__
