"""For all tests: how long an example takes on a busy machine is not what a property test is about, and what Ray starts
gets its share of such a machine."""

import os

from hypothesis import settings

# Ray's workers run at niceness 15. Beside tests that compute they start so slowly that Ray gives them up for lost.
os.environ.setdefault("RAY_worker_niceness", "0")

settings.register_profile("without a clock", deadline=None)
settings.load_profile("without a clock")
