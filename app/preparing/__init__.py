"""Turns a checkpoint into what a runtime loads. Runs in processes of its own, never in the server.

`plan` alone is light: it decides from a list of files, without any library.
"""
