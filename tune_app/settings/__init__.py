"""The settings of a sweep: their schema, and how they come from conf/, files, environment and command line."""
