"""The gallery that the tests of the search page share is made once."""

from search_pages import home  # noqa: F401
