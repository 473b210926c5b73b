"""What was refused, written down as it happens and explained afterwards.

`state` finds and guards the state directory, `log` writes one run's records, `read` and `explain` show them.
Nothing here judges: the rule and the remedy come in with the refusal, from the evaluator that enforced.
This package imports the standard library and `sandlockd.policy.verdict`, nothing else.
"""
