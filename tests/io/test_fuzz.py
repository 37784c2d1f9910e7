"""A few broken files of each kind; `python -m tests.io.fuzz` does thousands."""

import pytest

from tests.io.fuzz import KINDS, make, tried


@pytest.mark.parametrize("kind", KINDS)
def test_a_broken_file_ends_in_one_line(kind, tmp_path):
    whole = tmp_path / f"whole{KINDS[kind]}"
    make(kind, whole)
    work = tmp_path / "work"
    work.mkdir()
    found = [tried(kind, seed, work, whole) for seed in range(12)]
    assert "refused" in found
