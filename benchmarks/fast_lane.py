"""Run a script of the fast lane by its rules (docs/fast_lane.md): several seeds, last weights, two clocks.

    python benchmarks/fast_lane.py ex_6.py --seeds 5 -- --data cifar-10-python.tar.gz --target 0.80

What stands behind -- goes to every run. Runs that the output folder has already are not run again.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from common.comparing.tables import mean_interval  # noqa: E402
