from lsf_jax.runs.sweeps import leases


def test_the_last_holder_alone_may_write(tmp_path):
    first = leases.grant(tmp_path, 3)
    assert leases.is_held(tmp_path, 3, first)
    second = leases.grant(tmp_path, 3)
    assert leases.is_held(tmp_path, 3, second)
    assert not leases.is_held(tmp_path, 3, first)
    assert not leases.is_held(tmp_path, 4, first)


def test_nobody_may_write_once_the_driver_has_ended(tmp_path):
    lease = leases.grant(tmp_path, 0)
    leases.clear(tmp_path)
    assert not leases.is_held(tmp_path, 0, lease)
    assert list(tmp_path.iterdir()) == []
