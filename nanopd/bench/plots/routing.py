"""Where requests were sent."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from nanopd.bench.plots.pool import Group, few, groups, loads_of
from nanopd.bench.plots.style import finish, origin_of, panels
from nanopd.bench.record import Record

_NUM_BINS = 5  # of prompt length


def routing(record: Record) -> Figure | None:
    """Share of requests that were disaggregated, by prompt length and load, for every arm that sent requests both ways."""
    found = [group for group in groups(record) if any(sample.path for sample in group.completed)]
    arms = [
        arm.name
        for arm in record.arms
        if len({sample.path for group in found if group.arm == arm.name for sample in group.completed}) > 1
    ]
    if not arms:
        return None
    found = [group for group in found if group.arm in arms]
    labels = few(loads_of(found), 10)
    lengths = [sample.num_prompt_tokens for group in found for sample in group.completed]
    edges = np.unique(np.quantile(lengths, np.linspace(0.0, 1.0, _NUM_BINS + 1)))
    figure, axes = panels(len(arms), width=1.5)
    for ax, arm in zip(axes, arms, strict=True):
        shares = np.array([_shares([g for g in found if g.arm == arm and g.label == label], edges) for label in labels])
        image = ax.imshow(shares, cmap="cividis", vmin=0.0, vmax=1.0, aspect="auto")
        for row, column in np.ndindex(*shares.shape):
            if not np.isnan(shares[row, column]):
                colour = "white" if shares[row, column] < 0.5 else "black"
                ax.text(column, row, f"{shares[row, column]:.0%}", ha="center", va="center", fontsize=7.5, color=colour)
        ax.set_xticks(
            range(len(edges) - 1),
            [f"{low:.0f}-{high:.0f}" for low, high in zip(edges, edges[1:], strict=False)],
            fontsize=7.5,
        )
        ax.set_yticks(range(len(labels)), labels, fontsize=7.5)
        ax.set_xlabel("prompt, tokens (blank: no request)")
        ax.set_title(arm)
        ax.grid(visible=False)
        figure.colorbar(image, ax=ax, label="share disaggregated")
    return finish(figure, origin_of(record), "Where requests were sent")


def _shares(found: Sequence[Group], edges: np.ndarray) -> list[float]:
    """Per bin; NaN where no request fell."""
    samples = [sample for group in found for sample in group.completed]
    bins = np.clip(
        np.searchsorted(edges, [sample.num_prompt_tokens for sample in samples], side="right") - 1, 0, len(edges) - 2
    )
    moved = np.array([sample.path == "disaggregated" for sample in samples])
    return [
        float(moved[bins == index].mean()) if (bins == index).any() else float("nan") for index in range(len(edges) - 1)
    ]
