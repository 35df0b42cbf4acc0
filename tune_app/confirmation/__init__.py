"""A confirmation: its arms (`arms`), their runs trained (`confirm`), and what those scored (`runs`).

`tune_app.evidence` draws the conclusions.
"""
