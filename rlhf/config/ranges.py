"""Types of options that are numbers in a range."""

from dataclasses import dataclass
from typing import Annotated


@dataclass(frozen=True, kw_only=True)
class Range:
    """An interval of numbers; a bound that is None does not apply.

    Attributes:
        ge: values are at least this.
        gt: values are greater than this.
        le: values are at most this.
        lt: values are less than this.
    """

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None

    def __contains__(self, value: float) -> bool:
        return (
            (self.ge is None or value >= self.ge)
            and (self.gt is None or value > self.gt)
            and (self.le is None or value <= self.le)
            and (self.lt is None or value < self.lt)
        )

    def __str__(self) -> str:
        signs = {"at least": self.ge, "over": self.gt, "at most": self.le, "under": self.lt}
        return " and ".join(f"{sign} {x}" for sign, x in signs.items() if x is not None)


Count = Annotated[int, Range(ge=1)]
CountOrZero = Annotated[int, Range(ge=0)]
Positive = Annotated[float, Range(gt=0)]
NonNegative = Annotated[float, Range(ge=0)]
Fraction = Annotated[float, Range(ge=0, le=1)]

KL_COEF_LOWEST, KL_COEF_HIGHEST = 1e-4, 10.0  # bounds of ppo.kl_coef if it is adaptive
