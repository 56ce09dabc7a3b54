"""Pipeline: passes, recipes, and the compile that runs them in order and proves each."""
