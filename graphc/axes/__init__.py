"""Pure algebra of axes: leaves, products, sums, their unification, and the notation of rules."""
