"""What scores in nbrl/Maze-v0 are worth: walks on the plan of held-out mazes that see what lies in a straight line.

    python tools/maze_walks.py [--tiles 190 260 340] [--mazes 150]

All see in four directions and turn in no time, take what they see and pass over dead ends that they see. Otherwise one
keeps to the left, one goes on at random, and one, which alone has a memory, takes the next tile on which it has been
least. `--tiles` is how far they go in an episode.
"""

import argparse
from collections.abc import Iterator

import numpy as np

from nbrl.envs.interface import EnvStepper
from nbrl.envs.maze import maze
from nbrl.envs.maze.environment import state_of
from nbrl.envs.maze.making import WALL
from nbrl.envs.maze.world import APPLE_REWARD, PORTAL_REWARD, PORTAL_TILE, X, Y, side_of, world_at

WAYS = ("left", "random", "least")


class Walk:
    """One way through one maze."""

    def __init__(self, seed: int, way: str) -> None:
        player = EnvStepper(maze(evaluation=True))
        player.reset(seed)
        world = world_at(state_of(player.instance))
        side = int(side_of(world))
        self.open = np.array(world.tiles) < WALL
        self.steps = (1, side, -1, -side)  # east, south, west, north
        self.portal = int(world.counters[PORTAL_TILE])
        self.all_apples = frozenset(int(tile) for tile in world.apples if tile >= 0)
        self.apples = set(self.all_apples)
        cells = {i for i in np.flatnonzero(self.open).tolist() if i % side % 2 and i // side % 2}
        self.free = sorted(cells - self.all_apples - {self.portal})  # where the portal leads to
        self.here = int(world.body[Y]) * side + int(world.body[X])
        self.visits = np.zeros(side * side)
        self.rng, self.way, self.heading, self.score = np.random.default_rng(seed), way, 0, 0.0

    def ahead(self, heading: int) -> Iterator[int]:
        """The open tiles in a direction, up to the wall."""
        tile = self.here + self.steps[heading]
        while self.open[tile]:
            yield tile
            tile += self.steps[heading]

    def choose(self) -> int:
        """The direction to go in."""
        turns = [(self.heading + turn) % 4 for turn in (3, 0, 1, 2)]  # left, on, right, back
        ways = [way for way in turns if self.open[self.here + self.steps[way]]]
        for way in ways:
            if any(tile in self.apples or tile == self.portal for tile in self.ahead(way)):
                return way
        back = turns[-1]
        onward = [way for way in ways if way != back and not self.is_dead_end(way)]
        if self.way == "left" or not onward:
            return (onward + [back] * (back in ways) + ways)[0]
        if self.way == "random":
            return int(self.rng.choice(onward))
        onward += [back] * (back in ways)
        return min(onward, key=lambda way: self.visits[self.here + self.steps[way]] + (way == back) / 2)

    def is_dead_end(self, way: int) -> bool:
        """Whether no way leads off between here and the wall."""
        beside = (self.steps[(way + 1) % 4], self.steps[(way + 3) % 4])
        return not any(self.open[tile + step] for tile in self.ahead(way) for step in beside)

    def go(self) -> None:
        """One tile."""
        self.visits[self.here] += 1
        self.heading = self.choose()
        self.here += self.steps[self.heading]
        if self.here in self.apples:
            self.apples.remove(self.here)
            self.score += APPLE_REWARD
        elif self.here == self.portal:
            self.apples, self.here = set(self.all_apples), int(self.rng.choice(self.free))
            self.score += PORTAL_REWARD


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiles", type=int, nargs="+", default=[190, 260, 340])
    parser.add_argument("--mazes", type=int, default=150)
    options = parser.parse_args()
    for way in WAYS:
        walks = [Walk(seed, way) for seed in range(options.mazes)]
        for tile in range(max(options.tiles)):
            for walk in walks:
                walk.go()
            if tile + 1 in options.tiles:
                scores = np.array([walk.score for walk in walks])
                error = scores.std(ddof=1) / len(walks) ** 0.5
                print(f"{way:8}{tile + 1:5} tiles: {scores.mean():5.1f} (standard error {error:.1f})", flush=True)


if __name__ == "__main__":
    main()
