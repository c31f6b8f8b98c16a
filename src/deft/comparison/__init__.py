"""`deft compare`: priors x tasks x methods x seeds from one file, tuned alike, resumable, with a report.

`config` reads the file, `work` says what one piece of work is and does it, `run` does all of them, `report` and `figures` show what came out.
"""

from deft.comparison.config import Arm, FitSettings, Setting, Study, read_study
from deft.comparison.run import run_study

__all__ = ["Arm", "FitSettings", "Setting", "Study", "read_study", "run_study"]
