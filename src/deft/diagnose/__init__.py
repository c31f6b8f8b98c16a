"""Can samples be trusted? Calibration over many measurements, factors for intervals, and whether one measurement is
out of an h's depth."""

from deft.diagnose.conformal import conformal_factors
from deft.diagnose.coverage import Coverage, interval_coverage
from deft.diagnose.depth import DepthReference, Judgement, chi_square_p, depth_numbers
from deft.diagnose.ranks import RankTest, expected_coverage, rank_band, sbc, tarp

__all__ = [
    "Coverage",
    "DepthReference",
    "Judgement",
    "RankTest",
    "chi_square_p",
    "conformal_factors",
    "depth_numbers",
    "expected_coverage",
    "interval_coverage",
    "rank_band",
    "sbc",
    "tarp",
]
