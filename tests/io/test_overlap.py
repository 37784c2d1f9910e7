"""Reading ahead and writing behind: the same order, the same errors, nothing left running."""

import threading

import numpy as np
import pytest

from jaxprune.io import _overlap
from jaxprune.io._batches import Batch
from jaxprune.io._checkpoint import Tensor
from jaxprune.io._overlap import reading_ahead, writing_behind

BATCHES = [Batch([Tensor((str(i),), (8,), "float32", 32)], 32) for i in range(5)]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(_overlap, "_LEAST", 32)


def name_of(batch):
    return batch.tensors[0].name


def test_batches_are_read_once_and_in_time():
    reads = []

    def read(batch):
        here = threading.current_thread() is threading.main_thread()
        reads.append((name_of(batch), here))
        return np.full(8, int(name_of(batch)), np.float32)

    with reading_ahead(read, BATCHES) as each:
        found = [(name_of(batch), array[0]) for batch, array in each]
    assert found == [("0", 0), ("1", 1), ("2", 2), ("3", 3), ("4", 4)]
    assert reads == [("0", True), *((str(i), False) for i in (1, 2, 3, 4))]


def test_an_error_of_reading_comes_with_its_batch():
    def read(batch):
        if name_of(batch) == "2":
            raise OSError("gone")
        return 0

    with reading_ahead(read, BATCHES) as each:
        assert [name_of(next(each)[0]) for _ in range(2)] == ["0", "1"]
        with pytest.raises(OSError, match="gone"):
            next(each)


def test_writes_keep_their_order_and_are_done_at_the_end():
    written = []
    with writing_behind() as do:
        for batch in (*BATCHES, Batch([Tensor(("small",), (1,), "int8", 1)], 1)):
            do(batch, lambda batch=batch: written.append(name_of(batch)))
    assert written == ["0", "1", "2", "3", "4", "small"]


@pytest.mark.parametrize("failing", ["1", "4"])
def test_an_error_of_writing_is_raised(failing):
    def write(batch):
        if name_of(batch) == failing:
            raise OSError("full")

    def write_all():
        with writing_behind() as do:
            for batch in BATCHES:
                do(batch, lambda batch=batch: write(batch))

    before = threading.active_count()
    with pytest.raises(OSError, match="full"):
        write_all()
    assert threading.active_count() == before
