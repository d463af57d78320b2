"""``mx.random``: seeding and sampling."""

from bucketmod.ndarray.random import (
    current_seed,
    multinomial,
    next_step,
    normal,
    randint,
    randn,
    seed,
    shuffle,
    uniform,
)

__all__ = ["current_seed", "multinomial", "next_step", "normal", "randint", "randn", "seed", "shuffle", "uniform"]
