"""AI inference backend: several models, one server. Start reading at docs/architecture.md."""
