"""From a Policy to a running program: the filter, the Landlock ruleset, the spawn plan."""
