"""The galleries that the tests of the search page share are made once."""

from indexed import indexed, page_folder  # noqa: F401
from searching import clip, clip_page, home  # noqa: F401
