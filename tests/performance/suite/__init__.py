"""The benchmark suite: what sandlockd costs, beside the bare machine and the smallest supervisor there can be.

`idle` and `facts` look at the machine, `place` and `material` make what is worked on, `processes` runs and times,
`subjects` are the ways to run a command, `operations`, `work` and `startup` measure, `rows` judges, `report` prints.
"""

import sys
from pathlib import Path

# What it makes outside is noted, and found again, as that of the tests is.
sys.path.append(str(Path(__file__).resolve().parents[2]))
