"""Pages that are made when the site is built, from what there is: passes, recipes, commands, results, drawings."""
