"""Settings of all tests."""

from hypothesis import settings

# Two busy cores: how long one example takes says nothing.
settings.register_profile("steptrace", deadline=None)
settings.load_profile("steptrace")
