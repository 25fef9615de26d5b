from nanopd.runtime.supervisor import RestartPolicy, Supervisor

POLICY = RestartPolicy(quick_death_s=10.0, first_delay_s=0.5, max_quick_deaths=3)


def test_after_a_long_life_it_is_started_again_at_once():
    supervisor = Supervisor(POLICY)
    assert [supervisor.died(11.0) for _ in range(5)] == [0.0] * 5


def test_quick_deaths_wait_longer_and_end():
    supervisor = Supervisor(POLICY)
    assert [supervisor.died(0.0) for _ in range(3)] == [0.5, 1.0, None]


def test_a_long_life_forgives():
    supervisor = Supervisor(POLICY)
    assert [supervisor.died(lived) for lived in (0.0, 0.0, 20.0, 0.0, 0.0, 0.0)] == [0.5, 1.0, 0.0, 0.5, 1.0, None]
