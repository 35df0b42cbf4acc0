"""The runs of a confirmation: which arms (`arms`), and what their trials scored (`runs`). `tune_app.confirm` trains
them, `tune_app.confirmation` draws the conclusions."""
