"""The gallery that the tests of the search page share is made once."""

from searching import clip, clip_page, home  # noqa: F401
