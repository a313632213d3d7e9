"""Adapters over inference libraries; the only place that imports them."""
