"""A launcher that runs one job after the other and counts them."""

from hydra._internal.core_plugins.basic_launcher import BasicLauncher


class Counted(BasicLauncher):
    def launch(self, job_overrides, initial_job_idx):
        returns = super().launch(job_overrides, initial_job_idx)
        print(f"{len(returns)} jobs")
        return returns
