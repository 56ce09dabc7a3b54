"""Benchmarks of accuracy, on real data."""
