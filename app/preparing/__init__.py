"""Turns a checkpoint into what a runtime loads. Runs in processes of its own, never in the server.

`plan` and `job` alone are light: a plan decides from a list of files, without any library.
"""
