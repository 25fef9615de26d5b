"""The adaptive router: every plan scored by what it does for the request and to the others, with a measured cost model.

``router`` joins the parts: ``prefill_queue`` mirrors what each worker has to prefill, ``prefix_index`` what it remembers, ``outlook`` says what a
worker can offer, ``harm`` what that costs the requests there, ``utility`` turns times into the chance to keep objectives.
"""

from nanopd.router.adaptive.options import AdaptiveOptions
from nanopd.router.adaptive.router import AdaptiveRouter

__all__ = ["AdaptiveOptions", "AdaptiveRouter"]
