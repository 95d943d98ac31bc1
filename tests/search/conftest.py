"""The gallery that the tests of the search page share is made once."""

from searching import home  # noqa: F401
