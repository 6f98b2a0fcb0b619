"""On PYTHONPATH, arms every Python process that finds a plan in its environment: faults of real commands."""

import json
import os
import sys

if "FAULTS" in os.environ:
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    import events

    sys.path.pop(0)
    events.arm(**json.loads(os.environ["FAULTS"]))
