"""The estimators that a run can stream, by name: each is how an annotator's counts become rates."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from crlhf_ray.aggregation.coin import Coin
from crlhf_ray.aggregation.majority import EqualRates
from crlhf_ray.aggregation.one_coin import OneCoinRates
from crlhf_ray.aggregation.settings import AggregationSettings
from crlhf_ray.aggregation.two_coin import TwoCoinRates
from crlhf_ray.parts import part

COINS: Mapping[str, Callable[[AggregationSettings], Coin]] = {
    "two_coin": lambda settings: TwoCoinRates(settings.strength),
    "one_coin": lambda settings: OneCoinRates(),
    "majority": lambda settings: EqualRates(0.7),
}


def coin_of(settings: AggregationSettings) -> Coin:
    """The rates that `aggregation.estimator` names: ours, or those that ``package.module:Name`` makes of the settings.

    Raises ValueError where there is nothing of that name, or where it makes something else.
    """
    make = part(COINS, settings.estimator)
    try:
        coin = make(settings) if callable(make) else None
    except Exception as error:  # somebody's code may fail in any way
        raise ValueError(f"{settings.estimator!r} failed: {type(error).__name__}: {error}") from error
    if not isinstance(coin, Coin):
        raise ValueError(
            f"{settings.estimator!r} is not an estimator: give a class or function that takes AggregationSettings and "
            "makes an object with coins, rates, beta and strengths (crlhf_ray.aggregation.coin.Coin)"
        )
    return coin
