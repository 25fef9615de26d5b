"""What a transfer may ask of a GPU's pool: whole blocks copied by one kernel, to and from memory torch does not know (a peer's pool)."""

from nanopd.kernels.block_copy import Pieces, move_blocks

__all__ = ["Pieces", "move_blocks"]
