"""What a person runs: python -m tune_app.VERB key=value. The only package that builds a Tuner."""
