"""Which pairs the open pages show, so that no two people judge one at the same time."""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable


class Reservations:
    """Pairs that browser pages hold, each for a limited time.

    Args:
        lease: seconds for which a pair is reserved.
        clock: returns monotonic seconds.
    """

    def __init__(self, lease: float, clock: Callable[[], float]) -> None:
        self._lease, self._clock = lease, clock
        # by pair and page: annotator and end of the reservation
        self._by_pair = defaultdict[str, dict[str, tuple[str, float]]](dict)
        self._by_page = defaultdict[str, set[str]](set)

    def reserve(self, keys: Iterable[str], annotator: str, page: str) -> None:
        """Reserve pairs for a page, or renew their reservations.

        Args:
            keys: of the pairs.
            annotator: who judges at the page.
            page: id of the browser page.
        """
        for key in keys:
            self._by_pair[key][page] = annotator, self._clock() + self._lease
            self._by_page[page].add(key)

    def release_others(self, held: Collection[str], page: str) -> None:
        """End a page's reservations of all pairs but the `held` ones."""
        for key in self._by_page[page] - {*held}:
            self._by_page[page].remove(key)
            del self._by_pair[key][page]
            if not self._by_pair[key]:
                del self._by_pair[key]

    def holders(self, key: str) -> set[str]:
        """Return the annotators that a pair is reserved for."""
        now = self._clock()
        pages = self._by_pair.get(key, {})
        return {name for name, until in pages.values() if until > now}

    def reserved(self) -> list[str]:
        """Return the pairs that are, or were, reserved: at most those of the pages seen."""
        return [*self._by_pair]
