"""Another package's kind of data: curves [C, L], two coordinates at L times. What a third party writes."""

from curves.domain import CurveDomain

DOMAIN = CurveDomain()
