"""For all tests: how long an example takes on a busy machine is not what a property test is about."""

from hypothesis import settings

settings.register_profile("without a clock", deadline=None)
settings.load_profile("without a clock")
