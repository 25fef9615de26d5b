"""Beam search written down as plainly as possible, over any function that gives the log-probabilities of the next token."""

from collections.abc import Callable, Sequence

import numpy as np


def plain_beam_search(
    logprobs: Callable[[Sequence[int]], np.ndarray],
    width: int,
    max_tokens: int,
    stop_ids: frozenset[int] = frozenset(),
    length_penalty: float = 1.0,
    early_stopping: str = "heuristic",
) -> list[tuple[tuple[int, ...], float]]:
    """(tokens, score) of the ``width`` best hypotheses. ``logprobs`` of an output: float64 [V], over the whole vocabulary."""
    beams, finished = [((), 0.0)], []
    for length in range(1, max_tokens + 1):
        scored = np.stack([total + logprobs(tokens) for tokens, total in beams])
        ranking = np.argsort(-scored, axis=None, kind="stable")
        going_on = []
        for rank, flat in enumerate(ranking):
            beam, token = divmod(int(flat), scored.shape[1])
            tokens, total = (*beams[beam][0], token), float(scored[beam, token])
            if token in stop_ids or length == max_tokens:
                if rank < width:
                    finished.append((tokens, total / length**length_penalty))
            else:
                going_on.append((tokens, total))
            if rank >= width and len(going_on) >= width:
                break
        finished = sorted(finished, key=lambda pair: -pair[1])[:width]
        beams = going_on[:width]
        if not beams:
            break
        if len(finished) == width:
            reach = max_tokens if early_stopping == "never" and length_penalty > 0 else length
            if early_stopping == "first" or beams[0][1] / reach**length_penalty <= finished[-1][1]:
                break
    return finished
