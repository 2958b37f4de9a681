"""CUPED: what was known of a unit before the experiment takes its share out of the noise."""

from __future__ import annotations

import numpy
from numpy.typing import ArrayLike

from serve.experiments.statistics.estimates import Numbers


def adjusted(values: ArrayLike, covariates: ArrayLike) -> Numbers:
    """Return Y − θ(X − X̄), θ = cov(Y, X)/var(X), over the units of all arms together.

    Deng, Xu, Kohavi, Walker, "Improving the sensitivity of online controlled experiments by
    utilizing pre-experiment data" (WSDM 2013), eq. 4-5. The mean stays, the variance falls by the
    factor 1 − corr². `values`, `covariates`: (units,); NaN marks a unit of which nothing was known,
    which keeps its value. X must stem from before the unit was assigned, or it carries the effect.
    """
    y, x = numpy.asarray(values, numpy.float64), numpy.asarray(covariates, numpy.float64)
    known = ~numpy.isnan(x)
    if not known.any():
        return y
    deviations = numpy.where(known, x - x[known].mean(), 0.0)
    spread = deviations @ deviations
    together = deviations @ (y - y[known].mean())  # centred: else a constant X, rounded, counts
    return y if spread == 0 else y - together / spread * deviations
