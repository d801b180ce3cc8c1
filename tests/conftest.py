"""For all tests: how long an example takes on a busy machine is not what a property test is about, and what Ray starts
gets its share of such a machine."""

import os

from hypothesis import settings

# Ray's workers run at niceness 15. Beside tests that compute they start so slowly that Ray gives them up for lost; at 0
# they can keep another cluster's own processes from starting within the 30 s that Ray gives these.
os.environ.setdefault("RAY_worker_niceness", "5")

settings.register_profile("without a clock", deadline=None)
settings.load_profile("without a clock")
