"""Walks a jaxpr and notes every place where a leaf meets something."""

import dataclasses
import math
from collections.abc import Callable, Sequence

from jax.extend.core import JaxprEqn, Var

from jaxprune.tracing import _jax, _values
from jaxprune.tracing._dims import of_shape
from jaxprune.tracing._moves import Pick
from jaxprune.tracing._readings import (
    AnyJaxpr,
    Branches,
    Call,
    Contraction,
    Elementwise,
    Indexed,
    Joined,
    Moved,
    Passed,
    Reading,
    Roles,
    Scan,
    While,
)
from jaxprune.tracing._values import Part, Value


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Place:
    """Where in a jaxpr, and how often what stands there runs.

    Attributes:
        equations: The equation, after those that hold it; none where the function returns.
        where: The numbers of these equations in their jaxprs, each followed by the number of the
            inner jaxpr that holds the next: the condition of a `while` is 0 and its body 1, the
            branches of a `cond` are counted, all others are 0.
        turns: How many turns of loops it runs.
        in_while: Whether a loop of unknown length holds it; `turns` are then those of one of its
            turns.
    """

    equations: tuple[JaxprEqn, ...] = ()
    where: tuple[int, ...] = ()
    turns: int = 1
    in_while: bool = False

    def at(self, equation: JaxprEqn, number: int) -> "Place":
        """The place of an equation of the jaxpr that is here."""
        return Place((*self.equations, equation), (*self.where, number), self.turns, self.in_while)

    def inside(self, number: int = 0, *, turns: int = 1, in_while: bool = False) -> "Place":
        """The place of an inner jaxpr of the equation that is here."""
        where = (*self.where, number)
        return Place(self.equations, where, self.turns * turns, self.in_while or in_while)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Met:
    """A leaf, or a part of one, meets an equation.

    Attributes:
        part: The leaf, and how it got there.
        use: What happens to it: "product", "convolution", "lookup", "elementwise", "derived" or
            "opaque".
        place: Where.
        operand: Which operand of the equation holds the part.
        roles: For products and convolutions, what happens along each dimension of that operand.
        multiply_adds: Those of all turns.
        with_data: Whether the equation reads anything that depends on the inputs.
    """

    part: Part
    use: str
    place: Place = Place()
    operand: int = 0
    roles: Roles | None = None
    multiply_adds: int = 0
    with_data: bool = True


def walk(program: AnyJaxpr, leaves: Sequence[Sequence[int]]) -> list[Met]:
    """Everything that the leaves meet, in the order of the program.

    Args:
        program: A jaxpr whose first arguments are the leaves, and whose others are inputs.
        leaves: The shapes of the leaves.
    """
    reader = _Walk([math.prod(shape) for shape in leaves])
    values: list[Value] = [(Part(k, of_shape(shape)),) for k, shape in enumerate(leaves)]
    jaxpr = _jax.opened(program)
    values += [None] * (len(jaxpr.invars) - len(leaves))
    returned = reader.jaxpr(jaxpr, values, [True] * len(jaxpr.outvars), Place())
    reader.meet_all("elementwise", returned, Place(), with_data=False)
    return reader.met


class _Walk:
    """One walk through a jaxpr and all that it holds; `met` is what it found."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self.sizes = sizes
        self.met: list[Met] = []

    def jaxpr(
        self, program: AnyJaxpr, values: Sequence[Value], needed: Sequence[bool], place: Place
    ) -> list[Value]:
        """The values of the results, of which only those `needed` matter."""
        jaxpr = _jax.opened(program)
        alive, used = _jax.live(jaxpr, needed)
        known: dict[Var, Value] = dict.fromkeys(jaxpr.constvars, ())
        known.update(zip(jaxpr.invars, values, strict=True))

        def read(variable: object) -> Value:
            return () if _jax.is_known(variable) else known[variable]  # type: ignore[index]

        for number, equation in enumerate(jaxpr.eqns):
            if not alive[number]:
                continue
            operands = [read(variable) for variable in equation.invars]
            if any(operands):
                wanted = [variable in used for variable in equation.outvars]
                results = self.equation(equation, operands, wanted, place.at(equation, number))
            else:
                results = [None if None in operands else ()] * len(equation.outvars)
            known.update(zip(equation.outvars, results, strict=True))
        # What is not needed was not walked, and is as good as a constant.
        return [read(out) if need else () for out, need in zip(jaxpr.outvars, needed, strict=True)]

    def equation(
        self, equation: JaxprEqn, operands: list[Value], needed: Sequence[bool], place: Place
    ) -> Sequence[Value]:
        """The values of the results of an equation of which at least one operand holds a leaf."""
        reading = _jax.read(equation)
        first, others = operands[0], operands[1:]
        is_alone = bool(first) and not any(others)
        results: Sequence[Value]
        match reading:
            case Passed():
                results = operands
            case Call(jaxpr):
                results = self.jaxpr(jaxpr, operands, needed, place.inside())
            case Scan():
                results = self.scan(reading, operands, needed, place)
            case While():
                results = self.while_loop(reading, operands, place)
            case Branches():
                results = self.branches(reading, operands, needed, place)
            case Contraction():
                results = self.contraction(reading, operands, place)
            case Indexed() if is_alone:
                results = self.indexed(reading, equation, operands, place)
            case Moved(moves) if is_alone and None not in others:
                results = [_values.moved(first or (), each) for each in moves]
            case Joined(moves) if None not in operands:
                pairs = zip(operands, moves, strict=True)
                results = [tuple(p for value, m in pairs for p in _values.moved(value or (), m))]
            case _:
                results = self.computed(reading, equation, operands, place)
        return results

    def computed(
        self, reading: Reading, equation: JaxprEqn, operands: list[Value], place: Place
    ) -> Sequence[Value]:
        """Leaves go into a computation: what comes out is no leaf any more."""
        count, name = len(equation.outvars), equation.primitive.name
        is_elementwise = isinstance(reading, Elementwise | Moved | Joined)
        if None in operands:
            self.meet_all("elementwise" if is_elementwise else "opaque", operands, place)
            return [None] * count
        shapes = [_jax.shape_of(variable) for variable in equation.invars]
        if isinstance(reading, Elementwise) and reading.is_aligned:
            scaled = self.scaled(reading, operands, shapes, name)
            out = _jax.shape_of(equation.outvars[0])
            return [scaled or _values.combined(operands, shapes, out, name)]
        all_parts = _values.merged([part for value in operands for part in value or ()])
        return [_values.derived(all_parts, name)] * count

    def scaled(
        self, reading: Elementwise, operands: list[Value], shapes: list[tuple[int, ...]], name: str
    ) -> Value:
        """A leaf times a single number is the leaf still, as far as anything here asks."""
        for k in reading.scales:
            others = [value for j, value in enumerate(operands) if j != k]
            numbers = all(not shape for j, shape in enumerate(shapes) if j != k)
            if operands[k] and numbers and shapes[k]:
                leaf = operands[k] or ()
                factors = _values.merged([part for value in others for part in value or ()])
                mine = {part.leaf for part in leaf}
                more = [part for part in factors if part.leaf not in mine]
                return leaf + (_values.derived(tuple(more), name) or ())
        return None

    # --- where a leaf meets something

    def meet_all(
        self, use: str, operands: Sequence[Value], place: Place, *, with_data: bool = True
    ) -> None:
        for k, value in enumerate(operands):
            for part in value or ():
                part_use = use
                if use == "elementwise" and part.is_lookup:
                    part_use = "lookup"
                elif use == "elementwise" and part.dims is None:
                    part_use = "derived"
                self.met.append(Met(part, part_use, place, k, with_data=with_data))

    def contraction(
        self, reading: Contraction, operands: list[Value], place: Place
    ) -> Sequence[Value]:
        """Whatever comes out is an activation; where no data went in, it is a constant one."""
        total = reading.multiply_adds * place.turns
        with_data = None in operands
        for k, roles in enumerate(reading.roles):
            value = operands[k] or ()
            counted = self.counted(value)
            for part in value:
                own = int(total * part.fill) if part in counted else 0
                use = reading.use if part.moves is not None else "derived"
                if roles is None:
                    use = "opaque"
                elif not roles.input:
                    use, own = "elementwise", 0
                self.met.append(Met(part, use, place, k, roles, own, with_data))
        self.meet_all("opaque", [(), (), *operands[2:]], place)
        return [None if with_data else ()]

    def counted(self, value: tuple[Part, ...]) -> list[Part]:
        """The parts that own multiply-adds: leaves, and of what is derived, the largest leaf."""
        leaves = [part for part in value if part.moves is not None]
        rest = [p for p in value if p.moves is None and (p.dims is not None or not leaves)]
        largest = max((self.sizes[part.leaf] for part in rest), default=0)
        return leaves + [part for part in rest if self.sizes[part.leaf] == largest]

    def indexed(
        self, reading: Indexed, equation: JaxprEqn, operands: list[Value], place: Place
    ) -> Sequence[Value]:
        """A lookup where the inputs say which entries; where a loop does, one layer of a stack."""
        if None in operands:
            self.meet_all("lookup", operands[:1], place)
            return [None]
        value = operands[0] or ()
        if reading.picked is None:
            out, name = _jax.shape_of(equation.outvars[0]), equation.primitive.name
            return [_values.looked_up(value, reading.behind, out, name)]
        shape = _jax.shape_of(equation.invars[0])
        picks = [Pick(axis, shape[axis], place.where, *index) for axis, index in reading.picked]
        return [_values.moved(_values.picked(value, picks), reading.moves)]

    # --- loops and branches

    def scan(
        self, scan: Scan, operands: list[Value], needed: Sequence[bool], place: Place
    ) -> Sequence[Value]:
        first_stack = scan.constants + scan.carry
        stacks = [_values.unstacked(value, place.where) for value in operands[first_stack:]]
        needed = [True] * scan.carry + list(needed[scan.carry :])
        inside = place.inside(turns=scan.length)

        def body(carry: list[Value]) -> list[Value]:
            values = [*operands[: scan.constants], *carry, *stacks]
            return self.jaxpr(scan.jaxpr, values, needed, inside)

        results = self.repeated(body, operands[scan.constants : first_stack], "scan")
        apart = [part for value in operands[first_stack:] for part in value or ()]
        collected = [
            _values.restacked(value, tuple(apart), place.where) for value in results[scan.carry :]
        ]
        return results[: scan.carry] + collected

    def while_loop(self, loop: While, operands: list[Value], place: Place) -> Sequence[Value]:
        first_carry = loop.condition_constants + loop.body_constants
        of_condition = operands[: loop.condition_constants]
        of_body = operands[loop.condition_constants : first_carry]
        stops: list[Value] = []

        def turn(carry: list[Value]) -> list[Value]:
            test, body = place.inside(0, in_while=True), place.inside(1, in_while=True)
            stops[:] = self.jaxpr(loop.condition, [*of_condition, *carry], [True], test)
            return self.jaxpr(loop.body, [*of_body, *carry], [True] * len(carry), body)

        results = self.repeated(turn, operands[first_carry:], "while")
        self.meet_all("opaque", stops, place)  # leaves that decide how often it turns
        if stops == [None]:
            # How often it turned depends on the inputs, and so does all that a turn changes.
            body = _jax.opened(loop.body)
            before = body.invars[loop.body_constants :]
            changed = [x is not y for x, y in zip(before, body.outvars, strict=True)]
            results = [None if new else v for new, v in zip(changed, results, strict=True)]
        return results

    def repeated(
        self, body: Callable[[list[Value]], list[Value]], carry: list[Value], by: str
    ) -> list[Value]:
        """The results of a loop's body for a carry that it hands on as it got it.

        A carry that comes out as something else than it went in is known less of, and the body is
        walked once more: at most as often as there is less to be known.
        """
        noted = len(self.met)
        while True:
            results = body(carry)
            after = [_values.joined(pair, by) for pair in zip(carry, results, strict=False)]
            if after == carry:
                return results
            carry = after
            del self.met[noted:]

    def branches(
        self, cond: Branches, operands: list[Value], needed: Sequence[bool], place: Place
    ) -> Sequence[Value]:
        results = [
            self.jaxpr(jaxpr, operands[1:], needed, place.inside(number))
            for number, jaxpr in enumerate(cond.jaxprs)
        ]
        self.meet_all("opaque", operands[:1], place)  # leaves that decide which branch runs
        out: list[Value] = []
        for values in zip(*results, strict=True):
            value = _values.joined(values, "cond")
            if operands[0] is None and any(v != values[0] for v in values):
                # The inputs choose between leaves: neither is read here, nor where it goes.
                self.meet_all("opaque", values, place)
                value = None
            out.append(value)
        return out
