"""Pure decisions: no process, no model, no HTTP, no clock is read here."""
