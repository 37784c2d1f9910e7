"""Reading ahead and writing behind: the same order, the same errors, nothing left running."""

import threading

import numpy as np
import pytest

from jaxprune.io import _overlap
from jaxprune.io._checkpoint import Tensor
from jaxprune.io._overlap import reading_ahead, writing_behind

TENSORS = [Tensor((str(i),), (8,), "float32", 32) for i in range(5)]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(_overlap, "_LEAST", 32)


def array_of(tensor):
    return np.full(8, int(tensor.name), np.float32)


def test_tensors_are_read_once_and_in_time():
    reads = []

    def read(tensor):
        reads.append((tensor.name, threading.current_thread() is threading.main_thread()))
        return array_of(tensor)

    with reading_ahead(read, TENSORS) as read_one:
        found = [read_one(tensor)[0] for tensor in TENSORS]
    assert found == [0, 1, 2, 3, 4]
    assert reads == [("0", True), *((str(i), False) for i in (1, 2, 3, 4))]


def test_an_error_of_reading_comes_with_its_tensor():
    def read(tensor):
        if tensor.name == "2":
            raise OSError("gone")
        return array_of(tensor)

    with reading_ahead(read, TENSORS) as read_one:
        assert [read_one(tensor)[0] for tensor in TENSORS[:2]] == [0, 1]
        with pytest.raises(OSError, match="gone"):
            read_one(TENSORS[2])


def test_writes_keep_their_order_and_are_done_at_the_end():
    written = []
    with writing_behind() as do:
        for tensor in (*TENSORS, Tensor(("small",), (1,), "int8", 1)):
            do(tensor, lambda tensor=tensor: written.append(tensor.name))
    assert written == ["0", "1", "2", "3", "4", "small"]


@pytest.mark.parametrize("failing", ["1", "4"])
def test_an_error_of_writing_is_raised(failing):
    def write(tensor):
        if tensor.name == failing:
            raise OSError("full")

    def write_all():
        with writing_behind() as do:
            for tensor in TENSORS:
                do(tensor, lambda tensor=tensor: write(tensor))

    before = threading.active_count()
    with pytest.raises(OSError, match="full"):
        write_all()
    assert threading.active_count() == before
