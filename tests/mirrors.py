"""Which tests to ask first after a change: `pytest $(python tests/mirrors.py tune/search/halving.py)`.

Those that bear the file's name, in the folder that mirrors its own, and those named here.
"""

from __future__ import annotations

import sys
from pathlib import Path

# not the package's: as a script, and for tests/mutants.py, this file is in no package
ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("rme", "tune", "analysis", "bench")

ELSEWHERE = {
    "rme/__main__.py": "rme/test_main.py",
    "rme/completion.py": "tune/test_completion.py",
    "rme/registered_names.py": "tune/test_completion.py",
    "rme/run_fields.py": "rme/test_config.py",
    "tune/carry_out.py": "tune/test_sweep.py tune/test_options.py",
    "tune/command_line.py": "tune/test_options.py",
    "tune/help_text.py": "tune/test_options.py",
    "tune/plan/errors.py": "tune/test_options.py",
    "tune/plan/grid_files.py": "tune/plan/test_grid.py tune/test_options.py",
    "tune/plan/value_text.py": "tune/plan/test_grid.py",
    "rme/allocator.py": "rme/test_training.py",
    "rme/commands": "rme/commands",
    "rme/callbacks.py": "rme/test_fitting.py",
    "rme/data": "rme/data",
    "rme/device.py": "rme/test_training.py",
    "rme/evaluate.py": "rme/test_posterior_grid.py rme/test_diagnostics.py",
    "rme/memory.py": "rme/test_array_halving.py",
    "rme/noise.py": "rme/test_engine.py rme/methods/test_contract.py",
    "rme/fitting.py": "rme/test_training.py rme/test_array_halving.py rme/test_examples.py",
    "rme/posterior.py": "rme/test_model.py",
    "rme/numbers_given.py": "rme/test_model.py",
    "rme/selection.py": "rme/test_training.py rme/test_kept.py",
    "rme/untrained.py": "tune/cost/test_hours.py tune/cost/test_gpu_share.py bench/test_bench.py",
    "rme/step.py": "rme/test_engine.py rme/methods/test_contract.py",
    "rme/timing.py": "tune/run/test_timing.py",
    "rme/training.py": "rme/test_kept.py rme/test_array_halving.py",
    "tune/record/artifacts.py": "tune/record/test_tracking.py",
    "tune/record/data_set.py": "tune/record/test_tracking.py",
    "tune/record/notes.py": "tune/record/test_tracking.py",
    "tune/record/views.py": "tune/record/test_tracking.py",
    "tune/cost/cache.py": "tune/cost/test_hours.py tune/cost/test_gpu_share.py",
    "tune/cost/one_thread.py": "tune/cost/test_flops.py",
    "tune/cost/progress.py": "tune/cost/test_hours.py",
    "tune/plan/cells.py": "tune/plan/test_plan.py",
    "tune/store/failure.py": "tune/plan/test_plan.py tune/record/test_recorder.py",
    "tune/search/halving.py": "tune/search/test_search.py",
    "tune/search/searcher.py": "tune/search/test_search.py",
    "tune/search/samples.py": "tune/search/test_search.py",
    "tune/search/study.py": "tune/search/test_search.py",
    "tune/search/tracking.py": "tune/search/test_search.py",
    "tune/run/pace.py": "tune/run/test_display.py",
    "tune/run/stall.py": "tune/run/test_display.py",
    "tune/run/searcher.py": "tune/test_sweep.py tune/test_reliability.py",
    "tune/plan/cautions.py": "analysis/test_cautions.py",
    "tune/search/space.py": "tune/search/test_search.py",
    "tune/plan/grid_options.py": "tune/plan/test_grid_properties.py tune/plan/test_grid.py",
    "tune/plan/kinds.py": "tune/run/test_timing.py",
    "tune/run/driver.py": "tune/test_sweep.py tune/test_reliability.py",
    "tune/run/options.py": "tune/test_options.py",
    "tune/run/dispatcher.py": "tune/run/test_inline.py tune/test_sweep.py",
    "tune/run/machine.py": "tune/run/test_timing.py",
    "tune/run/ray_worker.py": "tune/run/test_worker.py",
    "tune/run/resources.py": "tune/test_sweep.py",
    "tune/run/trials.py": "tune/test_sweep.py tune/test_reliability.py",
    "tune/store/errors.py": "tune/test_sweep.py",
    "tune/run/training.py": "tune/run/test_inline.py tune/run/test_display.py tune/test_reliability.py",
    "tune/record/commit.py": "tune/plan/test_conflicts.py",
    "tune/record/writer.py": "tune/record/test_recorder.py",
    "tune/record/writer_process.py": "tune/record/test_recorder.py",
    "tune/plan/trials.py": "tune/plan/test_grid.py tune/plan/test_plan.py",
    "tune/plan/yaml_text.py": "tune/plan/test_grid.py tune/search/test_space_properties.py",
    "tune/cost/measure.py": "tune/cost/test_hours.py bench/test_bench.py",
    "tune/cost/timer.py": "bench/test_bench.py",
    "analysis/published_cells.py": "analysis/test_paper.py",
    "analysis/citations.py": "analysis/test_methods_text.py",
    "analysis/how_it_was_run.py": "analysis/test_report.py",
    "analysis/rate_text.py": "tune/plan/test_terms.py",
    "analysis/colours.py": "analysis/test_tables.py analysis/test_page.py",
    "analysis/curve_frame.py": "analysis/test_evidence.py",
    "analysis/figure.py": "analysis/figures",
    "analysis/figures": "analysis/figures",
    "analysis/findings.py": "analysis/test_gains.py analysis/test_report.py",
    "analysis/gains.py": "analysis/test_report.py",
    "analysis/panel.py": "analysis/test_page.py",
    "analysis/names.py": "analysis/test_collect.py tune/record/test_tracking.py",
    "analysis/measures.py": "analysis/figures/test_of_models.py",
    "analysis/models.py": "analysis/figures/test_of_models.py",
    "analysis/render.py": "analysis/test_tables.py analysis/test_time_tables.py analysis/test_paper.py",
    "analysis/runs.py": "analysis/test_collect.py analysis/test_evidence.py",
    "analysis/stored.py": "analysis/test_evidence.py",
    "analysis/style.py": "analysis/test_page.py analysis/figures/test_figures.py",
    "analysis/tracking_uri.py": "analysis/test_report.py",
    "analysis/trainings.py": "analysis/test_report.py",
    "bench": "bench/test_bench.py",
    "bench/pythae_models.py": "bench/test_peers.py bench/test_pythae_likelihood.py",
    "bench/stage.py": "bench/test_device.py",
    "bench/stage_file.py": "bench/test_device.py",
    "bench/stages": "bench/test_stages.py bench/test_device.py",
    "bench/summary.py": "bench/test_device.py",
}
"""What else in `tests` holds a file to what it says; of a folder, each file without tests of its own."""


def sources() -> list[Path]:
    """All files of code, relative to the project's root."""
    found = [path.relative_to(ROOT) for room in ROOMS for path in (ROOT / room).rglob("*.py")]
    return sorted(path for path in found if path.name != "__init__.py")


def tests_of(file: Path) -> list[str]:
    """A file's tests, files or folders, relative to the project's root; a method's are also those that all share."""
    folder = Path("tests") / file.parent
    names = (f"test_{file.stem}.py", f"test_{file.stem}_properties.py")
    found = [path for path in map(folder.joinpath, names) if (ROOT / path).exists()]
    listed = ELSEWHERE.get(str(file)) or ("" if found else ELSEWHERE.get(str(file.parent), ""))
    found += [Path("tests") / name for name in listed.split()]
    if file.parent.name == "methods":
        found += [folder / "test_contract.py", folder / "test_losses.py", Path("tests/oracles")]
    return list(map(str, found))


if __name__ == "__main__":
    print(*sorted({test for name in sys.argv[1:] for test in tests_of(Path(name))}))
