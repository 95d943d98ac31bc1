"""The galleries that the tests of the search page share are made once."""

from searching import clip, clip_made, home  # noqa: F401
