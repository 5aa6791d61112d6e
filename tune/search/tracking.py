"""Records searches in MLflow: one experiment for all searches of a grid, one run for each sample."""

from __future__ import annotations

from mlflow.entities import Metric, RunStatus, RunTag

from analysis.names import FAILURE
from tune.record import notes
from tune.record.commit import git_commit
from tune.record.tracking import Tracker, missing_params
from tune.record.views import View
from tune.search.samples import Sample, Samples, Status


def view_of(samples: Samples) -> View:
    """The samples of one search, the best first, with the searched values."""
    values = tuple(f"params.`{name}`" for name in samples.space.fields)
    return View(
        f"rme-{samples.key}",
        f"Search {samples.key[:6]}, {samples.runs[0].cell}",
        f"tags.search = '{samples.key}'",
        "metrics.`val/iwae`",
        ("metrics.`val/iwae`", "tags.`outcome`", *values, "metrics.`time/train_s`", "tags.`failure`"),
    )


class SearchTracker(Tracker):
    """Records samples in the experiment of a grid's searches."""

    def record_search(self, samples: Samples) -> None:
        """Record every ended sample that is not recorded yet, move the tag `best` to the best, and update the
        experiment's description and view.
        """
        for sample in samples.all:
            if sample.outcome is not Status.OPEN:
                self.record_sample(samples, sample)
        best = samples.best
        name = samples.name_of(best) if best is not None else ""
        tagged = self.client.search_runs([self.experiment_id], f"tags.search = '{samples.key}' and tags.best = 'true'")
        for run in tagged:
            if run.data.tags["sample"] != name:
                self.client.delete_tag(run.info.run_id, "best")
        if best is not None and not any(run.data.tags["sample"] == name for run in tagged):
            winner = self._find("sample", name)
            assert winner is not None, f"{name} was recorded above"
            self.client.set_tag(winner.info.run_id, "best", "true")
        view = view_of(samples)
        self._set_page([view], notes.of_searches(self.experiment_id, view, samples.key, samples.runs[0].cell))

    def record_sample(self, samples: Samples, sample: Sample) -> None:
        """Record a sample that has ended, or complete an interrupted recording. MLflow's errors propagate."""
        spec = samples.runs_of(sample)[0]
        name = samples.name_of(sample)
        ended = int(1000 * sample.ended_at)
        run = self._find("sample", name)
        if run is None:
            tags = {"search": samples.key, "sample": name, "cell": spec.cell, "git_commit": git_commit()}
            tags["early_stopping"] = "asha" if samples.early_stopping else "none"
            tags |= {"mlflow.source.name": "tune/sweep.py", "seeds": ", ".join(str(run.seed) for run in samples.runs)}
            started = ended - int(1000 * sample.train_s)
            run = self.client.create_run(self.experiment_id, started, tags, f"{spec.cell} sample {sample.number}")
        if run.info.status == RunStatus.to_string(RunStatus.FINISHED):
            return
        # without a failed sample's curve, because its next attempt records one
        curve = sample.curve if sample.outcome is not Status.FAILED else []
        metrics = [Metric("train/val_elbo", elbo, ended, epoch) for epoch, elbo in curve]
        if sample.val_iwae is not None:
            last = spec.training_epochs
            metrics += [Metric("val/iwae", sample.val_iwae, ended, last)]
            metrics += [Metric(f"val/iwae_seed_{s}", v, ended, last) for s, v in sample.val_iwae_by_seed.items()]
            metrics += [Metric("time/train_s", sample.train_s, ended, last)]
        params = [param for param in missing_params(run, spec) if param.key != "seed"]
        tags = {"outcome": str(sample.outcome), FAILURE: sample.reason[:5000]}
        self.client.log_batch(run.info.run_id, metrics, params, [RunTag(k, v) for k, v in tags.items() if v])
        if FAILURE in run.data.tags and not sample.reason:
            self.client.delete_tag(run.info.run_id, FAILURE)
        failed = sample.outcome in (Status.FAILED, Status.DIVERGED)
        status = RunStatus.FAILED if failed else RunStatus.FINISHED
        self.client.set_terminated(run.info.run_id, RunStatus.to_string(status), ended)
