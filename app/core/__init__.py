"""Settings, errors, logs, clocks and metrics. Imports nothing of ours."""
