"""Slow proofs: each figure of the README comes from one command here."""
