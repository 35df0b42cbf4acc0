"""Peers that need an environment of their own: a script that makes it, and a worker that runs inside it."""
