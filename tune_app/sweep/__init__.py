"""A sweep from its settings to its finished folder: prepared, run by a Ray Tune `Tuner`, resumed and told of."""
