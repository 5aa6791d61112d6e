"""A sweep whose driver is killed repeatedly ends with the same numbers as an uninterrupted one."""

from __future__ import annotations

import random
import signal
import time

import pytest

from tests.sweeping import (
    Sweep,
    assert_same,
    checkpoints,
    finish,
    output,
    processes_of,
    timed,
    wait_for,
    write_grid,
)
from tests.tiny import write_npz

KILLS = 20


@pytest.mark.slow
@pytest.mark.long(35 * KILLS)
def test_a_driver_killed_at_random_moments_costs_nothing(tmp_path, ray_folder, hold):
    """Twenty kills in one sweep."""
    # each start trains at most so many epochs of a run; all starts together fewer than a VAE and its RME have, so that
    # the sweep cannot end before its last kill, however fast the machine is
    epochs = 30
    longer = {"epochs": epochs * KILLS - 3 * epochs, "finish_epochs": 5 * epochs, "stage_epochs": 5 * epochs}
    rows = [{"method": "vae"}, {"method": "rme", "order": 2}]
    dataset = str(write_npz(tmp_path / "spots.npz"))
    grid = write_grid(tmp_path / "spots.yaml", rows, dataset=dataset, seed="0-2", **longer)
    undisturbed, until_training, training = timed(Sweep(tmp_path / "undisturbed", grid, ray_folder))
    all_of_them = training * epochs / (longer["epochs"] + longer["stage_epochs"])
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed of the kill times: {seed}")
    moments = random.Random(seed)
    sweep = Sweep(tmp_path / "killed", grid, ray_folder, hold=hold)
    hold.after(epochs)
    for kill in range(KILLS):
        before = set(checkpoints(sweep))
        driver = sweep.start()
        if kill % 4:  # during training, or while it is held
            wait_for(lambda before=before: set(checkpoints(sweep)) - before, driver)
            time.sleep(moments.uniform(0, 1.2 * all_of_them))
        else:  # while the sweep starts
            time.sleep(moments.uniform(0, until_training))
        assert driver.poll() is None, output(sweep)
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        if kill % 8 < 4:  # else the next driver starts while workers of the killed one may still run
            wait_for(lambda: not processes_of(ray_folder))
    hold.lift()
    finish(sweep)
    assert_same(sweep, undisturbed)
