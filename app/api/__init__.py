"""HTTP only: parse, hand over, shape the answer. No decisions are made here."""
