"""Networks: Flax Linen modules used through `init`/`apply`, and the pure functions around them."""
