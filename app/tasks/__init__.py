"""What a model does: how text becomes rows, and outputs become a result. Pure functions."""
