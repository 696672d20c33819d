"""Bridges to other training loops, each a thin module that is imported only on request.

`legw.adapters.transformers`, `.accelerate`, `.lightning`, `.timm` and `.optax` need the
library of that name; importing this package needs none of them.
"""
