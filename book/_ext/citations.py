"""Names entries of the bibliography as pages cite them, by authors and year, and sorts them by that: the style `authoryear`."""

from collections.abc import Iterable, Iterator

from pybtex.database import Entry
from pybtex.plugin import register_plugin
from pybtex.style.formatting.unsrt import Style as Unsorted
from pybtex.style.labels import BaseLabelStyle
from pybtex.style.sorting import BaseSortingStyle


def label(entry: Entry) -> str:
    """`Kuo et al., 2023`: two authors by their names, more by the first one's."""
    names = [
        " ".join(str(part) for part in (*person.rich_prelast_names, *person.rich_last_names))
        for person in entry.persons["author"]
    ]
    authors = f"{names[0]} et al." if len(names) > 2 else " and ".join(names)
    return f"{authors}, {entry.fields['year']}"


class Labels(BaseLabelStyle):
    """What stands ahead of each entry."""

    def format_labels(self, sorted_entries: Iterable[Entry]) -> Iterator[str]:
        """Return the label of each entry, in their order."""
        return map(label, sorted_entries)


class Sorting(BaseSortingStyle):
    """By what stands ahead of an entry."""

    def sorting_key(self, entry: Entry) -> str:
        """Return what entries are sorted by."""
        return label(entry).lower()


class Style(Unsorted):
    """Entries as `unsrt` writes them, with these labels, in this order."""

    default_label_style = default_sorting_style = "authoryear"


def setup(app) -> dict:
    for kind, plugin in (("style.labels", Labels), ("style.sorting", Sorting), ("style.formatting", Style)):
        register_plugin(f"pybtex.{kind}", "authoryear", plugin)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
