"""From one row's logits to its next token. Pure functions of arrays and numbers.

A draw depends on (seed, step) only: no global random state, so a row gives the same tokens
alone, beside others, or drawn again. Filters act on the distribution at temperature 1, in the
order top-p, min-p, XTC, top-k; temperature comes last.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from mlxone.backend.arrays import mx
from mlxone.core.words import Sampling

Draw = Callable[[mx.array, int], mx.array]  # (logits [V], step) -> token id, a scalar array

_MASK = 2**64 - 1


def make_draw(sampling: Sampling, seed: int) -> Draw:
    if sampling.temperature == 0:
        return lambda logits, step: mx.argmax(logits, axis=-1)
    filters = _filters(sampling)
    sharpness = min(1 / sampling.temperature, 1e30)  # beyond it float32 overflows

    def draw(logits: mx.array, step: int) -> mx.array:
        key = step_key(seed, step)
        logprobs = logits.astype(mx.float32)
        if filters:
            logprobs = logprobs - mx.logsumexp(logprobs)
            for keep in filters:
                logprobs = keep(logprobs, key)
        return mx.random.categorical(logprobs * sharpness, key=key)

    return draw


def step_key(seed: int, step: int) -> mx.array:
    """Mixes seed and step into one 64-bit number (the splitmix64 finaliser), then a key."""
    z = (seed + (step + 1) * 0x9E3779B97F4A7C15) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return mx.random.key(z ^ (z >> 31))


def _filters(sampling: Sampling) -> list[Callable[[mx.array, mx.array], mx.array]]:
    filters: list[Callable[[mx.array, mx.array], mx.array]] = []
    if 0 < sampling.top_p < 1:
        filters.append(lambda logprobs, key: keep_top_p(logprobs, sampling.top_p))
    if sampling.min_p > 0:
        filters.append(
            lambda logprobs, key: keep_min_p(logprobs, sampling.min_p, sampling.min_tokens_to_keep)
        )
    if sampling.xtc_probability > 0:
        filters.append(
            lambda logprobs, key: leave_out_top_choices(
                logprobs, sampling.xtc_probability, sampling.xtc_threshold, sampling.xtc_special_tokens, key
            )
        )
    if sampling.top_k > 0:
        filters.append(lambda logprobs, key: keep_top_k(logprobs, sampling.top_k))
    return filters


def keep_top_p(logprobs: mx.array, share: float) -> mx.array:
    """The likeliest tokens that together hold `share`, the one that crosses it included."""
    ordered = mx.sort(logprobs)
    probs = mx.exp(ordered)
    likelier = mx.cumsum(probs, reverse=True, inclusive=False)
    total = likelier[:1] + probs[:1]
    dropped = (likelier >= share * total).sum(keepdims=True)
    return mx.where(logprobs < ordered[dropped], -mx.inf, logprobs)


def keep_min_p(logprobs: mx.array, share: float, at_least: int = 1) -> mx.array:
    """Tokens at least `share` as likely as the likeliest."""
    dropped = logprobs < logprobs.max() + math.log(share)
    if at_least > 1:
        at_least = min(at_least, logprobs.shape[-1])
        kept = mx.argpartition(logprobs, kth=-at_least)[-at_least:]
        dropped[kept] = False
    return mx.where(dropped, -mx.inf, logprobs)


def leave_out_top_choices(
    logprobs: mx.array, probability: float, threshold: float, never: tuple[int, ...], key: mx.array
) -> mx.array:
    """XTC: now and then, of the tokens likelier than `threshold` only the least likely stays."""
    probs = mx.softmax(logprobs)
    least = mx.where(probs > threshold, probs, mx.inf).min()
    dropped = probs > least
    if never:
        dropped[mx.array(never)] = False
    happens = mx.random.uniform(key=mx.random.split(key, 2)[1]) <= probability
    return mx.where(happens & dropped, -mx.inf, logprobs)


def keep_top_k(logprobs: mx.array, count: int) -> mx.array:
    if count >= logprobs.shape[-1]:
        return logprobs
    dropped = mx.argpartition(-logprobs, kth=count - 1)[count:]
    return mx.put_along_axis(logprobs, dropped, mx.array(-mx.inf), axis=-1)


def logprobs_of(logits: mx.array, token: mx.array, count: int) -> tuple[mx.array, mx.array, mx.array]:
    """The token's log-probability, and the `count` likeliest tokens with theirs, best first."""
    wide = logits.astype(mx.float32)
    logprobs = wide - mx.logsumexp(wide)
    count = min(count, logprobs.shape[-1])
    best = mx.argsort(-logprobs)[:count] if count else mx.array([], mx.uint32)
    return logprobs[token], best, logprobs[best]
