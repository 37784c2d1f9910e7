"""Schedules: when a mask is chosen, how sparse it is then, and the target met exactly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import jaxprune as jp

counts = st.integers(0, 300)
targets = st.floats(0, 0.999)


def firing(schedule, upto=400):
    return [count for count in range(upto) if schedule.fires(count)]


@given(begin=counts, length=counts, every=st.integers(1, 50), target=targets)
def test_gradual_meets_its_target_exactly_at_the_end_whatever_the_steps(
    begin, length, every, target
):
    end = begin + length
    schedule = jp.gradual(begin, end, every)
    fired = firing(schedule, end + 100)
    assert fired[0] == begin
    assert fired[-1] == end == schedule.last
    assert fired[:-1] == list(range(begin, end, every))
    for count in (end, end + 1, end + 10**6):
        assert float(schedule.sparsity(count, target)) == np.float32(target)


@given(
    count=counts,
    target=targets,
    initial=st.floats(0, 0.99),
    power=st.floats(0.5, 6),
)
def test_gradual_is_the_polynomial(count, target, initial, power):
    begin, end = 40, 240
    found = float(jp.gradual(begin, end, 7, initial=initial, power=power).sparsity(count, target))
    part = min(max((count - begin) / (end - begin), 0), 1)
    expected = target + (initial - target) * (1 - part) ** power if count >= begin else 0
    assert found == pytest.approx(expected, abs=1e-5)


@given(target=targets, initial=st.floats(0, 0.99))
def test_gradual_never_turns_back(target, initial):
    schedule = jp.gradual(3, 60, initial=initial)
    values = [float(schedule.sparsity(count, target)) for count in range(3, 70)]
    steps = np.diff(values)
    assert (steps >= -1e-5).all() if initial <= target else (steps <= 1e-5).all()


def test_one_shot():
    schedule = jp.one_shot(5)
    assert firing(schedule) == [5]
    assert [float(schedule.sparsity(c, 0.5)) for c in (0, 4, 5, 6)] == [0, 0, 0.5, 0.5]
    assert firing(jp.one_shot()) == [0]


def test_constant():
    schedule = jp.constant(2, 9, every=3)
    assert firing(schedule) == [2, 5, 8, 9]
    assert [float(schedule.sparsity(c, 0.5)) for c in (0, 1, 2, 9, 99)] == [0, 0, 0.5, 0.5, 0.5]


def test_periodic():
    schedule = jp.periodic(10, 26, sparse=4, dense=2)
    assert firing(schedule) == [10, 14, 16, 20, 22, 26]
    sparse = [c for c in range(40) if float(schedule.sparsity(c, 0.5))]
    assert sparse == [*range(10, 14), *range(16, 20), *range(22, 40)]
    assert all(float(schedule.sparsity(c, 0.5)) in (0.0, 0.5) for c in range(40))
    assert schedule.falls


@pytest.mark.parametrize(
    "schedule",
    [
        jp.one_shot(5),
        jp.gradual(3, 30, 4, initial=0.1),
        jp.constant(2, 9, every=3),
        jp.periodic(10, 26, sparse=4, dense=2),
    ],
    ids=lambda schedule: schedule.name,
)
def test_a_traced_count_is_read_as_a_plain_one(schedule):
    @jax.jit
    @jax.vmap
    def traced(count):
        return schedule.fires(count), schedule.sparsity(count, 0.7)

    fires, sparsity = traced(jnp.arange(50))
    assert list(map(bool, fires)) == [bool(schedule.fires(count)) for count in range(50)]
    plain = [float(schedule.sparsity(count, 0.7)) for count in range(50)]
    np.testing.assert_allclose(sparsity, plain, rtol=1e-6)


def test_a_schedule_prints_as_a_table():
    text = jp.gradual(0, 1000, 10).table(0.5)
    lines = text.splitlines()
    assert lines[0].split() == ["updates", "sparsity"]
    assert lines[2].split() == ["0", "0.0000"]
    assert lines[-1].split() == ["1,000", "0.5000"]
    assert any("..." in line for line in lines)
    assert str(jp.one_shot(3)).splitlines()[0] == "one_shot(3), for a target of 0.9"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: jp.gradual(10, 5), "end=5 lies before begin=10"),
        (lambda: jp.constant(10, 5), "end=5 lies before begin=10"),
        (lambda: jp.periodic(10, 5, sparse=1, dense=1), "end=5 lies before begin=10"),
        (lambda: jp.gradual(0, 5, every=0), "every counts updates.*1 or more, got 0"),
        (lambda: jp.periodic(0, 5, sparse=0, dense=1), "sparse counts updates.*1 or more"),
        (lambda: jp.gradual(-1, 5), "begin counts updates.*0 or more, got -1"),
        (lambda: jp.one_shot(1.5), "at counts updates.*Python integer.*1.5"),
        (lambda: jp.one_shot(True), "at counts updates.*True"),
        (lambda: jp.gradual(0, 5, initial=1.0), "0 <= initial < 1"),
        (lambda: jp.gradual(0, 5, power=0), "power > 0"),
    ],
)
def test_a_schedule_that_makes_no_sense_is_refused(make, words):
    with pytest.raises(jp.PruningError, match=words):
        make()
