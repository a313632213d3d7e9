"""Measurements. Each is a script that says what it measured on."""
