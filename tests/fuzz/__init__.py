"""Random input, valid and spoiled, against the parsers and against running programs: `python -m tests.fuzz --help`.

Each kind of input (kinds.py) has a strategy of hypothesis that makes cases, and a trial that takes them one by one. All
cases are literals of Python, so that one that fails can be printed, made smaller, and given again. campaign.py runs
rounds of so many cases, each with a seed of its own: the same seed makes the same cases.
"""
