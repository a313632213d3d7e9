"""Use cases, in the order a reader would tell them."""
