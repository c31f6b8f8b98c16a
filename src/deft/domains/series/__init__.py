"""Series: [C, L] (placeholder of the merge)."""

from typing import ClassVar

from deft.kinds.domain import Domain


class _Series(Domain):
    name: ClassVar[str] = "series"
    title: ClassVar[str] = "series"

    def owns(self, event_shape: tuple[int, ...]) -> bool:
        return len(event_shape) == 2 and event_shape[1] != 3

    def families(self):  # type: ignore[no-untyped-def]
        from deft.domains.series.families import families

        return families()


DOMAIN = _Series()
