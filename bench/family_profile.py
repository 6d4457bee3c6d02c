"""Where a step of ours spends its time: each kind of part by itself, all layers of that kind in a row.

A part alone is fed a random hidden state and a filled state. *Built* is what the host needs to build the
graph; *done* is until the device has finished. What they lack to the whole step is norms, sums and the wait
for each other.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from bench.family_models import RandomModel
from bench.family_shapes import MODELS
from bench.figures import median, table
from bench.sides import drive_mlxone
from mlxone.backend.arrays import mx, on_stream
from mlxone.kv.state import ModelState
from mlxone.models.decoder import Decoder

REPEATS = 12


def profile(name: str, packing: str, size: str, say: Callable[[dict[str, Any]], None]) -> None:
    model = MODELS[name]
    prompt = 40 if size == "tiny" else model.prompt
    decoder = RandomModel(model.sized(size), packing).for_mlxone()
    ids = [10 + (i * 7919) % (decoder.spec.vocab_size - 20) for i in range(prompt)]
    for _ in drive_mlxone(decoder)(ids, 8):
        pass
    rows = []
    for what, length in (("decode step", 1), (f"prefill of {prompt:,}", prompt)):
        for part, layers, run in _parts(decoder, ids, length):
            built, done = _timed(run)
            rows.append([what, part, layers, f"{built * 1e3:.2f}", f"{done * 1e3:.2f}"])
            say({"profile": name, "weights": packing, "what": what, "part": part, "layers": layers,
                 "built_ms": built * 1e3, "done_ms": done * 1e3})  # fmt: skip
    print(table([name, "part", "layers", "built, ms", "done, ms"], rows), flush=True)


def _timed(run: Callable[[], list[mx.array]]) -> tuple[float, float]:
    built, done = [], []
    for _ in range(REPEATS + 2):
        with on_stream():
            start = time.perf_counter()
            out = run()
            built.append(time.perf_counter() - start)
            mx.eval(out)
            done.append(time.perf_counter() - start)
    return median(built[2:]), median(done[2:])  # the first ones compile


def _parts(
    decoder: Decoder, ids: list[int], length: int
) -> list[tuple[str, int, Callable[[], list[mx.array]]]]:
    new = mx.array([ids[:length]])
    x = mx.random.normal((1, length, decoder.spec.hidden_size)).astype(_dtype(decoder))
    mx.eval(x)
    filled = _filled(decoder, ids)
    parts: list[tuple[str, int, Callable[[], list[mx.array]]]] = [
        ("the whole step", len(decoder.blocks), partial(_whole, decoder, new, _filled(decoder, ids))),
        ("embedding", 1, lambda: [decoder.embed(new)]),
        ("head of one token", 1, lambda: [decoder.logits(x[:, -1:])]),
    ]
    for kind, mixers in _mixers(decoder).items():
        parts.append((kind, len(mixers), partial(_chain_mixers, decoder, mixers, x, filled)))
    for kind, feeds in _feed_forwards(decoder).items():
        parts.append((kind, len(feeds), partial(_chain, feeds, x)))
    return parts


def _whole(decoder: Decoder, new: mx.array, filled: ModelState) -> list[mx.array]:
    """A decoding step goes on in one state, where nothing else may hold its buffers; a prompt begins one."""
    if new.shape[1] == 1:
        return [decoder.logits(decoder.hidden(new, filled))]
    state = decoder.new_state()
    hidden = decoder.hidden(new, state, paced=True)
    return [decoder.logits(hidden[:, -1:]), *state.arrays()]


def _filled(decoder: Decoder, ids: list[int]) -> ModelState:
    state = decoder.new_state()
    if ids:
        with on_stream():
            mx.eval(decoder.hidden(mx.array([ids]), state, paced=True), state.arrays())
    return state


def _dtype(decoder: Decoder) -> mx.Dtype:
    return decoder.embed(mx.array([[1]])).dtype


@dataclass(frozen=True, slots=True)
class _Mixer:
    part: Any
    place: int  # of its state
    mask: str
    shared: bool  # reads what another layer has kept


def _mixers(decoder: Decoder) -> dict[str, list[_Mixer]]:
    kinds: dict[str, list[_Mixer]] = defaultdict(list)
    for block, layer in zip(decoder.blocks, decoder.spec.layers, strict=True):
        if block.mixer is None:
            continue
        shared, window = getattr(layer.mixer, "shared", False), getattr(layer.mixer, "window", None)
        kind = type(block.mixer).__name__
        kind += (", shared" if shared else "") + (f", window {window}" if window else "")
        kinds[kind].append(_Mixer(block.mixer, layer.memory, layer.mask, shared))
    return kinds


def _feed_forwards(decoder: Decoder) -> dict[str, list[Any]]:
    kinds: dict[str, list[Any]] = defaultdict(list)
    for block in decoder.blocks:
        if block.feed_forward is not None:
            kinds[type(block.feed_forward).__name__].append(block.feed_forward)
    return kinds


def _chain(parts: list[Any], x: mx.array) -> list[mx.array]:
    out = x
    for part in parts:
        out = x + 0.01 * part(out)  # one after the other, and in range
    return [out]


def _chain_mixers(decoder: Decoder, mixers: list[_Mixer], x: mx.array, filled: ModelState) -> list[mx.array]:
    length = x.shape[1]
    state = filled if length == 1 else decoder.new_state()
    out = x
    for mixer in mixers:
        mask = None if mixer.mask == "none" else state.layers[mixer.place].mask(length)
        memory = (filled if mixer.shared else state).layers[mixer.place]
        out = x + 0.01 * mixer.part(out, memory, mask)
    return [out]
