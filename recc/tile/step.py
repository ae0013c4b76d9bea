"""The step program: one token of a recurrence, its adjoint, and what the backward pass runs again of it.

The sequential kernels of every backend are made from it. A chunk of tokens is a loop around it.
"""

from __future__ import annotations

from dataclasses import replace

from recc.analysis.plan import Affine, Plan
from recc.ir.node import GRID, Node, Spans, walk
from recc.ir.ops import ONE, OPS, add, build, div, dot, leaf, mul, neg, spread
from recc.strategies.lowering import Lowering
from recc.strategies.sequential import Sequential
from recc.tile.alone import one_head
from recc.tile.contract import contract
from recc.tile.cores import REDUCTIONS, Core, Phases, dims
from recc.tile.pairs import in_real_numbers
from recc.tile.program import TileProgram, adjoint, finish, kept_names, state_key
from recc.tile.turned import turned


def step_program(plan: Plan) -> TileProgram:
    """The step of one token as a program: loads, carries and stores without rows."""
    plan = replace(plan, updates={**plan.updates, **_normal_forms(plan)})
    lowering = Lowering(plan, 1)
    for component in plan.components:
        Sequential.lower(lowering, component)
    program = lowering.program()
    places = {carry.new: plan.recurrence.place(carry.name) for carry in program.carries}
    return replace(program, spans=Spans({**places, **program.spans}))


def _normal_forms(plan: Plan) -> dict[str, Node]:
    """The updates of matrix memories as decay * S + key (value + reads of S): two multiply-adds an element and one for
    each read, however the spec wrote them."""
    found = {}
    for component in plan.components:
        kind, name = component.kind, component.states[0]
        if not isinstance(kind, Affine) or not kind.writes or kind.not_matrix is not None:
            continue
        state = plan.recurrence.state(name)
        old = leaf("state", state.axes, state.dtype, name=name, when="old")
        reads = [dot(w, old, (kind.mixing,)) for w in kind.ranks]
        new = mul(kind.decay, old)
        for write in kind.writes:
            value = write.const
            for rank, scale in write.of_read:
                value = add(value, mul(scale, reads[rank]))
            new = add(new, mul(write.key, value))
        found[name] = spread(new, state.axes)
    return found


def step_programs(plan: Plan, terms: bool = True) -> tuple[TileProgram, TileProgram, TileProgram]:
    """The step; what the backward pass runs again of it; and the adjoint of the step. Its `sums` are the terms of one
    token, which whoever runs it adds up.

    All are of real numbers, and of one head unless a state waits for several (`has_all_heads`). Run again is what leads
    from state to state. It keeps each token's entering states, and the small sums on the way, which the adjoint then
    need not compute from the states; of states no wider than vectors the gates, too. Raises NoPair for a complex op
    that has no form in real numbers. Without `terms`, for whoever runs all heads and tokens at a time: of all heads,
    with sums over all tokens.
    """
    step = in_real_numbers(step_program(plan))
    step = _taken_once(one_head(step)) if terms else step
    step = _mapped(step, turned(_roots(step), step.spans))
    wide = max((len(dims(c.old)) for c in step.carries), default=0)
    again = replace(finish(step), stores={})
    phases = Phases(again)
    own = [node for node in phases.nodes if isinstance(phases.owner(node), Core)]
    small = [n for n in own if n.op in REDUCTIONS and (len(dims(n)) < wide or wide < 2)]
    small += [node for node in own if OPS[node.op].curve and terms and wide < 2]
    kept = kept_names(small, step)
    back = adjoint(replace(step, kept=kept), placed=terms)
    back = contracted(_of_each_token(back) if terms else back)
    used = {node["name"] for node in walk(*back.roots) if node.op == "tile"}
    states = {state_key(c.name): c.old for c in step.carries}
    stores = {name: node for name, node in {**states, **kept}.items() if name in used or name in states}
    return finish(step), replace(again, stores=stores), back


def _taken_once(program: TileProgram) -> TileProgram:
    """The program with what need not be done at every token done to what is the same at each: a product with the
    reciprocal in place of a division by sqrt(K), and the sign of a product with a param at the param."""

    def fixed(node: Node, of: tuple[str, ...] = ("const", "size")) -> bool:
        return all(below.args or below.op in of for below in walk(node))

    def signed(node: Node) -> Node | None:
        factors = node.args[0].args if node.op == "neg" and node.args[0].op == "mul" else ()
        for one, other in (factors, factors[::-1]) if factors else ():
            if fixed(one, ("const", "size", "param")) and not fixed(other, ("const", "size", "param")):
                return mul(neg(one), other)
        return None

    done: dict[Node, Node] = {}
    spans = Spans(program.spans)
    for node in walk(*_roots(program)):
        args = tuple(done[arg] for arg in node.args)
        if node.op == "div" and fixed(args[1]) and not fixed(args[0]):
            done[node] = spans.inherit(mul(args[0], div(ONE, args[1])), node)
            continue
        new = node if args == node.args else build(node.op, *args, **dict(node.attrs))
        done[node] = spans.inherit(signed(new) or new, node)
    named = {done.get(node, node): name for node, name in program.names.items()}
    notes = {done.get(node, node): note for node, note in program.notes.items()}
    program = _mapped(program, [done[node] for node in _roots(program)])
    return replace(program, names=named, notes=notes, spans=spans)


def _of_each_token(program: TileProgram) -> TileProgram:
    """The program with sums over all tokens as a term of each: whoever runs it adds `sums` up."""
    done: dict[Node, Node] = {}
    for node in walk(*program.roots):
        args = tuple(done[arg] for arg in node.args)
        if node.op in REDUCTIONS and GRID in node["over"]:
            over = tuple(axis for axis in node["over"] if axis != GRID)
            new = build(node.op, *args, over=over) if over else mul(*args) if len(args) == 2 else args[0]
        else:
            new = node if args == node.args else build(node.op, *args, **dict(node.attrs))
        done[node] = program.spans.inherit(new, node)
    return _mapped(program, [done[node] for node in _roots(program)])


def contracted(program: TileProgram) -> TileProgram:
    """The program with sums of wide products taken apart."""
    return _mapped(program, contract(turned(_roots(program), program.spans), program.spans))


def _roots(program: TileProgram) -> list[Node]:
    return [*program.stores.values(), *program.sums.values(), *(c.new for c in program.carries)]


def _mapped(program: TileProgram, roots: list[Node]) -> TileProgram:
    """The program with other expressions for its stores, sums and next states."""
    values = dict(zip([*program.stores, *program.sums], roots))
    return replace(
        program,
        stores={name: values[name] for name in program.stores},
        sums={name: values[name] for name in program.sums},
        carries=tuple(replace(c, new=new) for c, new in zip(program.carries, roots[len(values) :])),
    )
