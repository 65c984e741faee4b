"""How many examples the property tests draw: `make test` takes the profile `quick`, `make test-all` `thorough`."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("quick", max_examples=50, deadline=None)
settings.register_profile("thorough", max_examples=500, deadline=None)
settings.load_profile("quick")
