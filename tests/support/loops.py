"""Runs the compiled loop of a trainer one rollout at a time, in the calling thread."""

from nbrl import Trainer


class Loop:
    """The loop of `Trainer(config, environment)`, whose threads are never started."""

    def __init__(self, config, environment):
        self.trainer = Trainer(config, environment)
        self.run = self.trainer._run.learner
        self.layout = self.run.network.layout
        self.instances = []
        for worker in range(len(self.run.workers)):
            self.instances += self.run.attach(worker)

    @property
    def theta(self):
        return self.layout.views(self.run.shared.theta)

    @property
    def target(self):
        """theta^-"""
        return self.layout.views(self.run.shared.target)

    @property
    def dtheta(self):
        """The first worker's last gradient, before the clip."""
        return self.layout.views(self.run.workers[0].work.dtheta)

    def rollout(self, count=1, worker=0):
        """The loop's code after `count` rollouts."""
        return self.run.loop(worker, count)
