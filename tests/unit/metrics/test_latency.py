import pytest

from nanopd.metrics import RequestTimes, goodput, slo_attainment
from nanopd.request import Slo

TIMES = RequestTimes(arrival=10.0, token_times=(10.5, 10.6, 10.6, 11.1))


def test_measures_of_one_request() -> None:
    assert TIMES.ttft == pytest.approx(0.5)
    assert TIMES.tpot == pytest.approx(0.2)  # 0.6 s over the three tokens after the first
    assert TIMES.itl == pytest.approx((0.1, 0.0, 0.5))
    assert TIMES.e2e == pytest.approx(1.1)


def test_e2e_is_ttft_plus_all_itl() -> None:
    assert TIMES.e2e == pytest.approx(TIMES.ttft + sum(TIMES.itl))


def test_what_does_not_exist_is_none() -> None:
    empty, single = RequestTimes(0.0, ()), RequestTimes(0.0, (1.0,))
    assert (empty.ttft, empty.tpot, empty.e2e, empty.itl) == (None, None, None, ())
    assert (single.ttft, single.tpot, single.e2e) == (1.0, None, 1.0)


@pytest.mark.parametrize(
    ("slo", "met"),
    [
        (Slo(), True),
        (Slo(ttft_ms=501.0), True),
        (Slo(ttft_ms=499.0), False),
        (Slo(tpot_ms=201.0), True),
        (Slo(tpot_ms=199.0), False),
        (Slo(ttft_ms=501.0, tpot_ms=199.0), False),
    ],
)
def test_slo(slo: Slo, met: bool) -> None:
    assert TIMES.meets(slo) is met


def test_a_request_without_tokens_meets_nothing_and_one_token_has_no_tpot() -> None:
    assert not RequestTimes(0.0, ()).meets(Slo())
    assert RequestTimes(0.0, (0.1,)).meets(Slo(tpot_ms=1.0))


def test_goodput_counts_good_requests_per_second_and_device() -> None:
    good, bad = RequestTimes(0.0, (0.1,)), RequestTimes(0.0, (9.0,))
    slo = Slo(ttft_ms=1000.0)
    assert goodput([good, good, bad], slo, elapsed_s=4.0) == pytest.approx(0.5)
    assert goodput([good, good, bad], slo, elapsed_s=4.0, num_devices=2) == pytest.approx(0.25)
    assert slo_attainment([good, good, bad], slo) == pytest.approx(2 / 3)
    assert slo_attainment([], slo) is None
    with pytest.raises(ValueError, match="elapsed_s > 0"):
        goodput([good], slo, elapsed_s=0.0)
