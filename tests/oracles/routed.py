"""Memories that see only some of the tokens: by a router, in a window, or in chunks."""

from __future__ import annotations

import torch
from torch import Tensor

from oracles.base import Result, Tensors, decayed, fla, oracle


@oracle("mom", "fla naive_recurrent_gated_delta_rule on the tokens of each memory")
def _(x: Tensors, p: Tensors, s: Tensors) -> Result:
    function = fla("gated_delta_rule/naive.py").naive_recurrent_gated_delta_rule
    batch, time, memories = x["w"].shape
    unseen = 0 * sum(x[name].sum() for name in ("q", "k", "v", "beta", "g", "w"))  # a token that no memory sees
    o, final = torch.zeros_like(x["v"]) + unseen, s["S"].clone()
    for b in range(batch):
        for m in range(memories):
            chosen = (x["w"][b, :, m] > 0).nonzero()[:, 0]
            if len(chosen):
                q, k, v, beta, g = (x[name][b, chosen, m] for name in ("q", "k", "v", "beta", "g"))
                packed = [value[None, :, None] for value in (q, k, v, beta, g)]
                found, S = function(*packed, initial_state=s["S"][b : b + 1, m : m + 1], output_final_state=True)
                o[b, chosen, m] = found[0, :, 0] * x["w"][b, chosen, m, None]
                final[b, m] = S[0, 0]
    return {"o": o.sum(2)}, {"S": final}


@oracle("mamba2_window", "closed form")
def _(x: Tensors, p: Tensors, s: Tensors) -> Result:
    remains = decayed(x["g"])  # [batch, t, s, heads]
    lag = torch.arange(remains.shape[1])[:, None] - torch.arange(remains.shape[2])
    seen = remains * ((lag >= 0) & (lag < 4)).to(remains.dtype)[..., None]
    write = torch.einsum("bshn,bshp->bshnp", x["B"], x["dt"][..., None] * x["x"])
    S = torch.einsum("btsh,bshnp->bthnp", seen, write)
    S = S + x["g"].cumsum(1).exp()[..., None, None] * s["S"][:, None]
    return {"y": torch.einsum("bthn,bthnp->bthp", x["C"], S)}, {"S": S[:, -1]}


@oracle("rat", "torch's scaled_dot_product_attention over the chunks' ends")
def _(x: Tensors, p: Tensors, s: Tensors) -> Result:
    """With chunks of 4 tokens, of which 4 are kept, as in the spec."""
    chunk, kept = 4, 4
    outputs, finals = [], []
    for b in range(x["q"].shape[0]):
        for h in range(x["q"].shape[2]):
            first = int(s["n"][b, h])
            # A slot holds the last chunk of its number that has ended.
            ends = {}
            for c in range(max(0, first // chunk - kept), first // chunk):
                ends[c] = (s["A"][b, h, c % kept], s["B"][b, h, c % kept])
            gated = [s["a"][b, h], s["b"][b, h]]
            found = []
            for t in range(x["q"].shape[1]):
                c, place = divmod(first + t, chunk)
                g = x["g"][b, t, h]
                for i, name in enumerate("kv"):
                    gated[i] = g * (gated[i] if place else 0 * gated[i]) + (1 - g) * x[name][b, t, h]
                seen = [ends[e] for e in range(max(0, c - kept), c)] + [tuple(gated)]
                keys, values = (torch.stack(parts) for parts in zip(*seen, strict=True))
                attend = torch.nn.functional.scaled_dot_product_attention
                found.append(attend(x["q"][b, t, h][None], keys, values)[0])
                if place == chunk - 1:
                    ends[c] = tuple(gated)
            outputs.append(torch.stack(found))
            slots = [[s[name][b, h, m] for m in range(kept)] for name in "AB"]
            for c, end in sorted(ends.items()):
                for i in range(2):
                    slots[i][c % kept] = end[i]
            count = s["n"][b, h] + x["q"].shape[1]
            finals.append((count, *gated, *(torch.stack(slot) for slot in slots)))
    heads = s["n"].shape

    def whole(parts: list[Tensor]) -> Tensor:
        return torch.stack(parts).unflatten(0, heads)

    final = {name: whole([f[i] for f in finals]) for i, name in enumerate(("n", "a", "b", "A", "B"))}
    return {"o": whole(outputs).transpose(1, 2)}, final
