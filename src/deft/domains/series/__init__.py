"""Series: [C, L], C variables at L times."""

from deft.domains.series.domain import SeriesDomain

DOMAIN = SeriesDomain()

__all__ = ["DOMAIN"]
