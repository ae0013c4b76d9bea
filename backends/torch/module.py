"""A recurrence's torch code: the generated tile functions, and the standalone file around them."""

from __future__ import annotations

import ast
import hashlib
import pprint
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib import import_module, resources
from types import ModuleType
from typing import Any

from recc.backends.torch.emit import argument_place, function, identifier, step_function
from recc.backends.torch.text import Text, is_static, solver_name

from recc.analysis.plan import Plan
from recc.ir.node import GRID, Node, sort_axes, substitute, walk
from recc.ir.ops import leaf, spread
from recc.ir.program import Recurrence
from recc.strategies import Choice, Sequential, lower, wavefront
from recc.strategies.lowering import Lowering
from recc.strategies.newton import functions_of
from recc.tile.program import DEAR, TileProgram, differentiate, finish, state_key

LIBRARIES = ("primitives", "scans", "filters", "matrices", "solve", "wavefront")  # of which a file has what it calls
SUPPORT = ("layout", "passes", "op")
CHECKPOINT = 32  # tokens between the states that a sequential pass keeps, where states are large


@dataclass(frozen=True)
class Generated:
    """functions: the text of forward_tiles, backward_tiles, step_tiles and initial_tiles. meta: what else Op needs."""

    functions: str
    meta: dict[str, Any]


def generate(plan: Plan, choice: Choice) -> Generated:
    """The tile functions of a plan under a choice of strategies."""
    rec = plan.recurrence
    program, backward, step = programs(plan, choice)
    parts = [
        *_passes(plan, choice, program, backward),
        step_function(step, "step_tiles", f"One token of {rec.name}: outputs and new states."),
        initial_function(rec, program),
    ]
    solved = list(solvers(program))
    return finished("\n\n".join([*solved, *parts]), describe(plan, choice, program, backward))


def _passes(plan: Plan, choice: Choice, program: TileProgram, backward: TileProgram) -> Iterator[str]:
    """`forward_tiles` and `backward_tiles`: one function each, or one for chunks that copies are renewed anywhere in,
    one for those where that is their first token, and the choice between these."""
    texts = {
        "forward": f"All chunks of {plan.recurrence.name}: outputs, states that leave, states that enter.",
        "backward": f"The backward pass of {plan.recurrence.name}: cotangents of inputs, params and initial states.",
    }
    general = dict(zip(texts, (program, backward), strict=True))
    if choice.starts is None:
        yield from (function(general[name], f"{name}_tiles", text) for name, text in texts.items())
        return
    counter, offset = choice.starts
    special = dict(zip(texts, programs(plan, choice, aligned=True), strict=False))
    for name, text in texts.items():
        yield function(general[name], f"{name}_anywhere", f"{text[:-1]}; copies are renewed at any token of a chunk.")
        yield function(special[name], f"{name}_aligned", f"{text[:-1]}; copies are renewed at first tokens alone.")
        place = argument_place(general[name], state_key(counter))
        yield (
            f"def {name}_tiles(spans, end, *tiles):\n"
            f'    """{text}"""\n'
            f"    first = starts_chunks(tiles[{place}], {choice.chunk}, {offset})\n"
            f"    return ({name}_aligned if first else {name}_anywhere)(spans, end, *tiles)\n"
        )


def solvers(program: TileProgram) -> Iterator[str]:
    """The step of each component that Newton's method solves, alone and with its slopes; and of each grid, the step of
    a cell and what flows back through it."""
    for node in walk(*program.roots):
        if node.op == "newton":
            name, listing = solver_name(node["names"]), ", ".join(node["names"])
            step, slopes = functions_of(program, node)
            yield step_function(step, f"step_{name}", f"The states {listing} after a step.")
            yield step_function(
                slopes, f"slopes_{name}", f"{listing} after a step, and their derivatives by those before."
            )
        elif node.op == "wavefront":
            name, listing = solver_name(node["names"]), ", ".join(node["names"])
            cell, flow = wavefront.functions_of(program, node)
            yield step_function(cell, f"cell_{name}", f"The states {listing} of the cells of a diagonal.")
            yield step_function(flow, f"flow_{name}", "What flows on from the cells of a diagonal to those before.")


def programs(
    plan: Plan, choice: Choice, keep: tuple[str, ...] = DEAR, aligned: bool = False
) -> tuple[TileProgram, TileProgram, TileProgram]:
    """The tile programs of the forward pass, of the backward pass, and of one token. keep: see `differentiate`.
    aligned: see `Lowering`."""
    program = lower(plan, choice.strategies, choice.chunk, aligned)
    keep = keep if choice.starts is None else ()  # of two programs for a pass, the tiles would differ
    program, backward = (finish(part) for part in differentiate(program, keep))
    lowering = Lowering(plan, 1)
    for component in plan.components:
        Sequential.lower(lowering, component)
    step = lowering.program()
    order = {c.name: place for place, c in enumerate(program.carries)}
    return program, backward, replace(step, carries=tuple(sorted(step.carries, key=lambda c: order[c.name])))


def finished(functions: str, meta: dict[str, Any]) -> Generated:
    """Text and description, under a name that changes with either."""
    digest = hashlib.blake2s((functions + repr(meta)).encode(), digest_size=6).hexdigest()
    return Generated(functions, {**meta, "digest": digest})


def initial_function(rec: Recurrence, program: TileProgram) -> str:
    """`initial_tiles(params...)`: each state's value before the first token; a number, a tensor, or None."""
    params = {p.name: leaf("param", p.axes, p.dtype, name=p.name) for p in rec.params}
    names = {node: identifier(name) for name, node in params.items()}
    sizes = {a: f"{names[n]}.shape[{i}]" for n in params.values() for i, a in enumerate(n.axes)}
    lines = [f"def initial_tiles({', '.join(names.values())}):", '    """The states before the first token."""']
    if names:
        lines.append(f"    like = {next(iter(names.values()))}")
    values = []
    for carry in program.carries:
        state = rec.state(carry.name)
        if state.init is None:
            values.append("None")
        elif is_static(state.init) and state.init.op == "const":
            values.append(repr(float(state.init["value"])))
        else:
            (init,) = substitute([state.init], {})
            value = spread(init, tuple(a for a in state.axes if a in sizes or a in init.axes))
            values.append(Text(names.get, lambda a: sizes.get(a, a))(value))
    lines.append(f"    return ({', '.join(values)},)" if values else "    return ()")
    return "\n".join(lines) + "\n"


def describe(plan: Plan, choice: Choice, program: TileProgram, backward: TileProgram) -> dict[str, Any]:
    """What an op and its passes need to know besides the tile functions."""
    rec = plan.recurrence

    solved = [node["names"] for node in walk(*program.roots) if node.op == "newton"]
    gradients = [*backward.stores, *backward.sums, *(f"d_{state_key(c.name)}" for c in backward.carries)]
    return {
        "name": rec.name,
        "doc": rec.doc,
        "chunk": choice.chunk,
        "strategy": ", ".join(dict.fromkeys(choice.name(c) for c in plan.components)) or "parallel",
        "dims": dict(rec.dims),
        "inputs": [described(i, domain=(i.domain.low, i.domain.high, i.domain.unit)) for i in rec.inputs],
        "params": [described(p) for p in rec.params],
        "states": [described(rec.state(c.name), key=state_key(c.name)) for c in program.carries],
        "saved": [*(saved_item(c.old) for c in program.carries), *(saved_item(node) for node in program.kept.values())],
        "outputs": [described(o) for o in rec.outputs],
        "initial": True,
        "checkpoint": CHECKPOINT if choice.chunk == 1 and expands(rec) else 1,
        "working": _working_tiles(program),
        "gradients": gradients,
        "solvers": {", ".join(names): f"step_{solver_name(names)}" for names in solved},
    }


def described(declared: Any, **more: Any) -> dict[str, Any]:
    """What code that runs needs to know of a declared tensor."""
    return {"name": declared.name, "axes": tuple(declared.axes), "tile": sort_axes(declared.axes),
            "dtype": declared.dtype, **more}  # fmt: skip


def saved_item(node: Node) -> dict[str, Any]:
    """A tile that the forward pass leaves to the backward pass, one entry a chunk."""
    return {"tile": tuple(axis for axis in node.axes if axis != GRID), "dtype": node.dtype}


def expands(rec: Recurrence) -> bool:
    """Whether a state has more dims than what is read and written for a token: then states are dear to keep."""
    widest = max((len(item.axes) for item in (*rec.inputs, *rec.outputs)), default=0)
    return any(len(state.axes) > widest for state in rec.states)


def _working_tiles(program: TileProgram) -> list[tuple[str, ...]]:
    """The axes of the largest tiles, those that are no part of another's."""
    every = {
        tuple(a for a in node.axes if a != GRID) for node in walk(*program.roots) if GRID in node.axes and node.args
    }
    return sorted(axes for axes in every if not any(set(axes) < set(other) for other in every))


def standalone(generated: Generated, rec: Recurrence) -> str:
    """One file that imports torch alone: support text, tile functions, and the op under the recurrence's name."""
    support = [support_text("torch", part) for part in SUPPORT]
    libraries = [support_text("torch", part) for part in LIBRARIES]
    return one_file(generated, rec, "import functools\nimport math\n\nimport torch\n", libraries, support, "Op")


TILES = ("forward_tiles", "backward_tiles", "step_tiles", "initial_tiles")


def one_file(
    generated: Generated, rec: Recurrence, imports: str, libraries: list[str], support: list[str], op: str,
    functions: tuple[str, ...] = TILES,
) -> str:  # fmt: skip
    """The tile functions with what they need: of each library the functions that are called, all of the support.

    op: the class of the op, which takes the description and `functions`.
    """
    name = identifier(rec.name)
    title = f'"""{rec.name}, compiled by recc from this spec:\n\n{_quoted(rec.text)}\n"""\n'
    functional = "import torch.nn.functional as F\n" if "F." in generated.functions else ""
    head = f"{title}\n{imports}{functional}"
    users = [generated.functions, *support]
    for text in reversed(libraries):  # a library may call those before it
        users = [called(text, users), *users]
    libraries = users[: len(libraries)]
    texts = [text for text in libraries if text] + [without_imports(text) for text in support]
    # A name of its own for torch.library: a file that is loaded beside recc runs its own text.
    meta = pprint.pformat({**generated.meta, "digest": f"{generated.meta['digest']}_file"}, width=116, sort_dicts=False)
    use = f"META = {meta}\n\n{name} = {op}(META, {', '.join(functions)})\n"
    return "\n\n".join([head, generated.functions.rstrip(), *texts, use])


def called(library: str, users: list[str]) -> str:
    """The functions of a library that `users` call, directly or through each other; nothing if they call none."""
    reached = _reached(users, library)
    return without_imports(library, reached) if reached else ""


def _quoted(text: str) -> str:
    return "\n".join(
        f"    {line}".rstrip() for line in text.replace("\\", "\\\\").replace('"""', "'''").strip().splitlines()
    )


def executed(functions: str, name: str) -> dict[str, Any]:
    """The functions of a generated text by name, in a module of their own: torch.compile looks names up in modules."""
    module = ModuleType(f"recc_generated_{hashlib.blake2s(functions.encode(), digest_size=8).hexdigest()}")
    for part in LIBRARIES:
        found = vars(import_module(f"recc.backends.torch.{part}"))
        vars(module).update({name: value for name, value in found.items() if not name.startswith("__")})
    exec(compile(functions, f"<recc {name}>", "exec"), vars(module))  # our own text: a spec holds no code
    sys.modules[module.__name__] = module
    return vars(module)


def support_text(package: str, part: str) -> str:
    """The text of a module that generated files carry along, of a backend or of a package of recc."""
    package = package if package.startswith("recc.") else f"recc.backends.{package}"
    return resources.files(package).joinpath(f"{part}.py").read_text(encoding="utf-8")


def _names(text: str) -> set[str]:
    return {node.id for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)}


def _reached(users: list[str], library: str) -> set[str]:
    """The functions of `library` that `users` call, directly or through each other."""
    bodies = {n.name: _names(ast.unparse(n)) for n in ast.parse(library).body if isinstance(n, ast.FunctionDef)}
    reached: set[str] = set()
    ahead = set().union(*(_names(text) for text in users)) & set(bodies)
    while ahead:
        reached |= ahead
        ahead = set().union(*(bodies[name] for name in ahead)) & set(bodies) - reached
    return reached


def without_imports(text: str, used: set[str] | None = None) -> str:
    """A support module as part of one file: docstring as comment, no imports, its functions those in `used`."""
    tree = ast.parse(text)
    drop: set[int] = set()
    lines = text.splitlines()
    for node in tree.body:
        unused = isinstance(node, ast.FunctionDef) and used is not None and node.name not in used
        if isinstance(node, (ast.Import, ast.ImportFrom)) or unused:
            start = min([node.lineno, *(mark.lineno for mark in getattr(node, "decorator_list", ()))])
            while (
                unused and start > 1 and lines[start - 2].startswith("# ") and not lines[start - 2].startswith("# ---")
            ):
                start -= 1  # the comment above a function is about it
            drop |= set(range(start, node.end_lineno + 1))
    doc = tree.body[0]
    comment = [f"# {line}".rstrip() for line in ast.get_docstring(tree).splitlines()]
    body = [line for number, line in enumerate(lines, 1) if number > doc.end_lineno and number not in drop]
    text = re.sub(r"\n{4,}", "\n\n\n", "\n".join(body).strip())
    text = re.sub(r"(# -+ [^\n]*\n+)(?=# -+)", "", text + "\n")  # headings of which nothing is left
    return "\n".join(["# " + "-" * 100, *comment, "", text.strip()]) + "\n"
