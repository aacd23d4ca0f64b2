"""The rules of predator-prey once more, in plain NumPy and loops: an oracle that shares nothing with the library."""

import dataclasses

import numpy as np

DIRECTIONS = [(0, 1), (1, 0), (0, -1), (-1, 0)]  # right, down, left, up


@dataclasses.dataclass
class World:
    size: int
    sight: int
    threshold: int
    capture_reward: float
    punishment: float
    limit: int
    predators: list  # [row, column] each
    active: list
    prey: list
    alive: list
    time: int = 0

    def occupied(self):
        grid = np.zeros((self.size, self.size), int)
        for (row, column), there in zip(self.predators + self.prey, self.active + self.alive):
            grid[row, column] += there
        return grid

    def is_free(self, row, column):
        return 0 <= row < self.size and 0 <= column < self.size and self.occupied()[row, column] == 0

    def distance(self, predator, prey):
        (row, column), (other_row, other_column) = self.predators[predator], self.prey[prey]
        return abs(row - other_row) + abs(column - other_column)


def step(world, actions, predator_order, prey_order, prey_rank):
    """Changes `world`; returns reward, captures, lone catches, whether the hunt is over, whether time is up."""
    for predator in predator_order:
        if world.active[predator] and actions[predator] < 4:
            row_step, column_step = DIRECTIONS[actions[predator]]
            row, column = world.predators[predator]
            if world.is_free(row + row_step, column + column_step):
                world.predators[predator] = [row + row_step, column + column_step]
    reward, captures, lone_catches = np.float32(0), 0, 0
    for prey in prey_order:
        if not world.alive[prey]:
            continue
        catchers = [
            predator
            for predator in range(len(world.predators))
            if world.active[predator] and actions[predator] == 5 and world.distance(predator, prey) == 1
        ]
        if len(catchers) >= world.threshold:
            reward += np.float32(world.capture_reward)
            captures += 1
            world.alive[prey] = False
            for predator in catchers:
                world.active[predator] = False
            continue
        if catchers:
            reward += np.float32(world.punishment)
            lone_catches += 1
        row, column = world.prey[prey]
        free = [[row + dr, column + dc] for dr, dc in DIRECTIONS if world.is_free(row + dr, column + dc)]
        if free:
            world.prey[prey] = free[prey_rank[prey] % len(free)]
    world.time += 1
    over = not any(world.alive) or not any(world.active)
    return reward, captures, lone_catches, over, world.time >= world.limit


def grid_of(world):
    """[rows, columns, 3] of zeros and ones."""
    grid = np.zeros((world.size, world.size, 3), np.float32)
    for (row, column), there in zip(world.predators, world.active):
        grid[row, column, 0] = max(grid[row, column, 0], there)
    for (row, column), there in zip(world.prey, world.alive):
        grid[row, column, 1] = max(grid[row, column, 1], there)
    return grid


def observe(world):
    """Observations [N, O], state [S] and availability [N, 6]."""
    grid, sight = grid_of(world), world.sight
    padded = np.pad(grid, ((sight, sight), (sight, sight), (0, 0)))
    obs, avail = [], []
    for predator, (row, column) in enumerate(world.predators):
        window = padded[row : row + 2 * sight + 1, column : column + 2 * sight + 1]
        can = [False] * 4 + [True, False]
        if world.active[predator]:
            for number, (row_step, column_step) in enumerate(DIRECTIONS):
                can[number] = 0 <= row + row_step < world.size and 0 <= column + column_step < world.size
            can[5] = any(world.alive[prey] and world.distance(predator, prey) == 1 for prey in range(len(world.prey)))
        obs.append(window.reshape(-1) * world.active[predator])
        avail.append(can)
    return np.array(obs), grid.reshape(-1), np.array(avail)
