"""The program: capture, canonical form, editing, verification, text."""
