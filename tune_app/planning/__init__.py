"""What a sweep will take, before it begins.

epochs.py     how many epochs, from the rungs
pace.py       how long an epoch takes, from earlier sweeps of the same shape
measure.py    the same, measured on this machine in as many processes as trials at once
space.py      memory and disk
forecast.py   all of it as one plan: lines for a terminal, one line for `run`
"""
