"""Adapters: bridges to other training loops, each imported only on request.

`legw.adapters.transformers`, `.accelerate`, `.lightning`, `.timm` and `.optax` need the
library of that name; importing this package needs none of them.
"""
