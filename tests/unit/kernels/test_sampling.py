"""Which shape of the sampling launch serves which batch."""

import sys

from nanopd.kernels.sampling import FILTERED, PLAIN, choose_config


def test_every_batch_has_a_shape_and_clusters_only_where_there_are_any() -> None:
    for ladder, has_filters in ((PLAIN, False), (FILTERED, True)):
        bounds = [most for most, _ in ladder]
        assert bounds == sorted(bounds) and bounds[-1] == sys.maxsize
        for most, config in ladder:
            assert choose_config(min(most, 10**6), has_filters, has_clusters=True) == config
        for num_rows in (1, 64, 5000):
            assert choose_config(num_rows, has_filters, has_clusters=False).cluster == 1


def test_slices_cover_the_vocabulary() -> None:
    for _, config in (*PLAIN, *FILTERED):
        for vocab in (7, 32003, 151936, 262144):
            assert config.cluster * config.slice_tokens(vocab) >= vocab
            assert config.slice_tokens(vocab) % 8 == 0
