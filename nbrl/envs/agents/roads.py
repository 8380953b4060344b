"""The roads of the traffic junctions: which cells are road, and the routes from where cars arrive.

Cars keep to the right. A route is straight on, to the right or to the left at the first junction, likewise at the
second, and straight on from there until it leaves the grid.
"""

from typing import NamedTuple

Cell = tuple[int, int]  # row and column
DOWN, UP, RIGHT, LEFT = (1, 0), (-1, 0), (0, 1), (0, -1)
STRAIGHT, TO_THE_RIGHT, TO_THE_LEFT = range(3)


class Level(NamedTuple):
    """A map, and how much traffic there is."""

    agents: int
    side: int  # of the grid
    steps: int
    first_rate: float  # probability that a car arrives at a place in a step, where the curriculum begins
    rate: float  # and where it ends
    roads: tuple[int, ...]  # the first row or column of each, the same across and down
    two_way: bool


LEVELS = {
    "easy": Level(5, 7, 20, 0.1, 0.3, (3,), False),
    "medium": Level(10, 14, 40, 0.05, 0.2, (6,), True),
    "hard": Level(20, 18, 80, 0.02, 0.05, (4, 12), True),
}


def cells(level: Level) -> list[Cell]:
    """The road, row by row."""
    lanes = [lane for road in level.roads for lane in ((road, road + 1) if level.two_way else (road,))]
    side = range(level.side)
    return [(row, column) for row in side for column in side if row in lanes or column in lanes]


def arrivals(level: Level) -> list[tuple[Cell, Cell]]:
    """Where cars arrive, and which way they head: from above, from below, from the left, from the right."""
    last = level.side - 1
    found = [((0, road), DOWN) for road in level.roads]
    if level.two_way:
        found += [((last, road + 1), UP) for road in level.roads]
        found += [((road + 1, 0), RIGHT) for road in level.roads]
        return found + [((road, last), LEFT) for road in level.roads]
    return found + [((road, 0), RIGHT) for road in level.roads]


def routes(level: Level) -> list[list[list[Cell]]]:
    """Of each arrival its routes, each the cells that a car passes."""
    found = []
    for start, heading in arrivals(level):
        own: list[list[Cell]] = []
        turns = range(3) if level.two_way else (STRAIGHT,)
        for first in turns:
            for second in turns:
                route = _drive(level, start, heading, (first, second))
                if route not in own:  # the second turn means nothing where the first leads out
                    own.append(route)
        found.append(own)
    return found


def _drive(level: Level, cell: Cell, heading: Cell, turns: tuple[int, ...]) -> list[Cell]:
    route, left = [cell], list(turns)

    def ahead(steps: int) -> None:
        nonlocal cell
        for _ in range(steps):
            cell = cell[0] + heading[0], cell[1] + heading[1]
            route.append(cell)

    def inside(place: Cell) -> bool:
        return all(0 <= each < level.side for each in place)

    def in_junction(place: Cell) -> bool:
        width = 2 if level.two_way else 1
        return all(any(road <= each < road + width for road in level.roads) for each in place)

    while inside((cell[0] + heading[0], cell[1] + heading[1])):
        ahead(1)
        if in_junction(cell) and level.two_way:
            turn = left.pop(0) if left else STRAIGHT
            if turn == TO_THE_RIGHT:
                heading = heading[1], -heading[0]
            else:
                ahead(1)
                if turn == TO_THE_LEFT:
                    heading = -heading[1], heading[0]
                    ahead(1)
            ahead(1)  # out of the junction
    return route
