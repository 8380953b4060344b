"""The tasks of gymnasium's MuJoCo environments, version 5 with their default options: how each begins and is judged.

As in gymnasium, fields that MuJoCo derives (positions of bodies, inertias, velocities, forces) are those that the last
substep began with, and after a reset there are no contact forces yet.
"""

import math
from typing import NamedTuple

from numba import carray

from nbrl.envs.mujoco.physics import (
    BODIES,
    BODY_A,
    BODY_B,
    BODY_C,
    CFRC_EXT,
    CINERT,
    CONTROLS,
    CTRL,
    CVEL,
    HIDDEN,
    MASSES,
    NOISE,
    PLACE,
    POSITIONS,
    QFRC_ACTUATOR,
    QFRC_CONSTRAINT,
    QPOS,
    QVEL,
    RANDOM,
    SITE_XPOS,
    STEP_SECONDS,
    SUBSTEP_SECONDS,
    TASK,
    VELOCITIES,
    XIPOS,
    XPOS,
    field,
    numbers_of,
    rows_at,
)
from nbrl.kernels.compile import jit
from nbrl.kernels.random import ROW, normal, uniform

(
    PENDULUM, DOUBLE_PENDULUM, REACHER, PUSHER, SWIMMER, CHEETAH, HOPPER, WALKER, ANT, HUMANOID, STANDUP,
) = range(11)  # fmt: skip


class Task(NamedTuple):
    """What distinguishes a task beside its reward.

    Attributes
    ----------
    number : int
    file : str
        The model, among gymnasium's.
    substeps : int
        Of the physics, in a step.
    observations : int
    noise : float
        Size of the noise in a reset.
    hidden : int
        First positions that are not observed.
    time_limit : int
        Steps after which an episode is truncated.
    bodies : tuple of str
        Those whose places matter.
    forces : bool
        Whether it looks at the forces on bodies, which MuJoCo computes on request only; nothing else needs them.
    """

    number: int
    file: str
    substeps: int
    observations: int
    noise: float = 0.0
    hidden: int = 0
    time_limit: int = 1000
    bodies: tuple[str, ...] = ()
    forces: bool = False


TASKS = {
    "InvertedPendulum-v5": Task(PENDULUM, "inverted_pendulum.xml", 2, 4, noise=0.01),
    "InvertedDoublePendulum-v5": Task(DOUBLE_PENDULUM, "inverted_double_pendulum.xml", 5, 9, noise=0.1),
    "Reacher-v5": Task(REACHER, "reacher.xml", 2, 10, time_limit=50, bodies=("fingertip", "target")),
    "Pusher-v5": Task(PUSHER, "pusher_v5.xml", 5, 23, time_limit=100, bodies=("tips_arm", "object", "goal")),
    "Swimmer-v5": Task(SWIMMER, "swimmer.xml", 4, 8, noise=0.1, hidden=2),
    "HalfCheetah-v5": Task(CHEETAH, "half_cheetah.xml", 5, 17, noise=0.1, hidden=1),
    "Hopper-v5": Task(HOPPER, "hopper.xml", 4, 11, noise=0.005, hidden=1),
    "Walker2d-v5": Task(WALKER, "walker2d_v5.xml", 4, 17, noise=0.005, hidden=1),
    "Ant-v5": Task(ANT, "ant.xml", 5, 105, noise=0.1, hidden=2, forces=True),
    "Humanoid-v5": Task(HUMANOID, "humanoid.xml", 5, 348, noise=0.01, hidden=2, forces=True),
    "HumanoidStandup-v5": Task(STANDUP, "humanoidstandup.xml", 5, 348, noise=0.01, hidden=2, forces=True),
}

GOAL_RADIUS = 0.2  # of the disc in which Reacher's goal is drawn, in metres
FREE_RADIUS = 0.17  # around Pusher's goal, where its object is not put
JOINT_SPEED = 0.005  # largest one at the start of Reacher and Pusher
SPEED_LIMIT = 10.0  # of observed speeds, where they are limited
CONTACT_COST = 5e-7  # Humanoid and HumanoidStandup: of squared contact forces, at most 10
CONTACT_COST_LIMIT = 10.0


@jit
def _between(row, low, high):
    return low + (high - low) * uniform(row)


@jit
def draw_start(words):
    """Add a reset's noise to the positions and velocities, which are the model's own before.

    The draws have gymnasium's distributions, but come from the state's own random row.
    """
    numbers = numbers_of(words)
    row = carray(rows_at(words.ctypes.data + 8 * RANDOM), (ROW,))
    task, noise = words[TASK], numbers[NOISE]
    positions, velocities = field(words, QPOS, words[POSITIONS]), field(words, QVEL, words[VELOCITIES])
    if task == REACHER:
        for i in range(positions.size):
            positions[i] += _between(row, -0.1, 0.1)
        x, y = GOAL_RADIUS, GOAL_RADIUS
        while not math.sqrt(x * x + y * y) < GOAL_RADIUS:
            x, y = _between(row, -GOAL_RADIUS, GOAL_RADIUS), _between(row, -GOAL_RADIUS, GOAL_RADIUS)
        positions[positions.size - 2], positions[positions.size - 1] = x, y
        for i in range(velocities.size - 2):
            velocities[i] += _between(row, -JOINT_SPEED, JOINT_SPEED)
    elif task == PUSHER:
        x, y = 0.0, 0.0
        while not math.sqrt(x * x + y * y) > FREE_RADIUS:
            x, y = _between(row, -0.3, 0.0), _between(row, -0.2, 0.2)
        positions[positions.size - 4], positions[positions.size - 3] = x, y
        for i in range(velocities.size - 4):
            velocities[i] += _between(row, -JOINT_SPEED, JOINT_SPEED)
    else:
        for i in range(positions.size):
            positions[i] += _between(row, -noise, noise)
        gaussian = task in (DOUBLE_PENDULUM, CHEETAH, ANT)
        for i in range(velocities.size):
            velocities[i] += noise * normal(row) if gaussian else _between(row, -noise, noise)


@jit
def _clipped(value, limit):
    return min(max(value, -limit), limit)


@jit
def _copy_scaled_to(out, at, values, first, limit):
    """Write `values` from index `first` on, clipped to a limit, from ``out[at]`` on; where it ends."""
    for i in range(first, values.size):
        out[at] = _clipped(values[i], limit)
        at += 1
    return at


@jit
def observe(words, out):
    """Write the observation, float32."""
    task, bodies = words[TASK], words[BODIES]
    positions, velocities = field(words, QPOS, words[POSITIONS]), field(words, QVEL, words[VELOCITIES])
    if task == DOUBLE_PENDULUM:
        out[0] = positions[0]
        for i in range(2):
            out[1 + i], out[3 + i] = math.sin(positions[1 + i]), math.cos(positions[1 + i])
        _copy_scaled_to(out, 5, velocities, 0, SPEED_LIMIT)
        out[8] = _clipped(field(words, QFRC_CONSTRAINT, 1)[0], SPEED_LIMIT)
    elif task == REACHER:
        for i in range(2):
            out[i], out[2 + i] = math.cos(positions[i]), math.sin(positions[i])
            out[4 + i], out[6 + i] = positions[2 + i], velocities[i]
            out[8 + i] = _apart(words, BODY_A, BODY_B, i)
    elif task == PUSHER:
        places = field(words, XPOS, 3 * bodies)
        for i in range(7):
            out[i], out[7 + i] = positions[i], velocities[i]
        for i in range(3):
            out[14 + i] = places[3 * words[BODY_A] + i]
            out[17 + i] = places[3 * words[BODY_B] + i]
            out[20 + i] = places[3 * words[BODY_C] + i]
    else:
        at = _copy_scaled_to(out, 0, positions, words[HIDDEN], math.inf)
        at = _copy_scaled_to(out, at, velocities, 0, SPEED_LIMIT if task in (HOPPER, WALKER) else math.inf)
        # The world is the first body, and is left out.
        if task in (HUMANOID, STANDUP):
            at = _copy_scaled_to(out, at, field(words, CINERT, 10 * bodies), 10, math.inf)
            at = _copy_scaled_to(out, at, field(words, CVEL, 6 * bodies), 6, math.inf)
            at = _copy_scaled_to(out, at, field(words, QFRC_ACTUATOR, velocities.size), 6, math.inf)
        if task in (ANT, HUMANOID, STANDUP):
            _copy_scaled_to(out, at, field(words, CFRC_EXT, 6 * bodies), 6, 1.0 if task == ANT else math.inf)


@jit
def _apart(words, first, second, axis):
    """How far a body is from another along an axis."""
    places = field(words, XPOS, 3 * words[BODIES])
    return places[3 * words[first] + axis] - places[3 * words[second] + axis]


@jit
def _distance(words, first, second):
    x, y, z = _apart(words, first, second, 0), _apart(words, first, second, 1), _apart(words, first, second, 2)
    return math.sqrt(x * x + y * y + z * z)


@jit
def place(words):
    """Where the robot is along x: its speed over a step is the difference."""
    task, bodies = words[TASK], words[BODIES]
    if task == ANT:
        return field(words, XPOS, 3 * bodies)[3]
    if task == HUMANOID:
        masses, centres = numbers_of(words)[MASSES:], field(words, XIPOS, 3 * bodies)
        total, moment = 0.0, 0.0
        for body in range(bodies):
            total += masses[body]
            moment += masses[body] * centres[3 * body]
        return moment / total
    return field(words, QPOS, words[POSITIONS])[0]


@jit
def _sum_of_squares(values, limit):
    total = 0.0
    for value in values:
        value = _clipped(value, limit)
        total += value * value
    return total


@jit
def judge(words):
    """The reward of a step, and whether the robot has fallen, which ends the episode."""
    numbers = numbers_of(words)
    task, bodies = words[TASK], words[BODIES]
    positions, velocities = field(words, QPOS, words[POSITIONS]), field(words, QVEL, words[VELOCITIES])
    effort = _sum_of_squares(field(words, CTRL, words[CONTROLS]), math.inf)
    if task == PENDULUM:
        fallen = abs(positions[1]) > 0.2
        return 0.0 if fallen else 1.0, fallen
    if task == DOUBLE_PENDULUM:
        tip = field(words, SITE_XPOS, 3)
        x, y = tip[0], tip[2]
        fallen = y <= 1.0
        distance = 0.01 * x * x + (y - 2.0) * (y - 2.0)
        speed = 0.001 * velocities[1] * velocities[1] + 0.005 * velocities[2] * velocities[2]
        return (0.0 if fallen else 10.0) - distance - speed, fallen
    if task == REACHER:
        return -_distance(words, BODY_A, BODY_B) - effort, False
    if task == PUSHER:
        near, far = _distance(words, BODY_B, BODY_A), _distance(words, BODY_B, BODY_C)
        return -far - 0.1 * effort - 0.5 * near, False
    if task == STANDUP:
        contact = min(CONTACT_COST * _sum_of_squares(field(words, CFRC_EXT, 6 * bodies), math.inf), CONTACT_COST_LIMIT)
        return positions[2] / numbers[SUBSTEP_SECONDS] - 0.1 * effort - contact + 1.0, False
    speed = (place(words) - numbers[PLACE]) / numbers[STEP_SECONDS]
    if task == SWIMMER:
        return speed - 1e-4 * effort, False
    if task == CHEETAH:
        return speed - 0.1 * effort, False
    if task in (HOPPER, WALKER):
        healthy = _stands(task, positions, velocities)
        return speed + (1.0 if healthy else 0.0) - 1e-3 * effort, not healthy
    if task == ANT:
        healthy = 0.2 <= positions[2] <= 1.0
        contact = 5e-4 * _sum_of_squares(field(words, CFRC_EXT, 6 * bodies), 1.0)
        return speed + (1.0 if healthy else 0.0) - 0.5 * effort - contact, not healthy
    healthy = 1.0 < positions[2] < 2.0
    contact = min(CONTACT_COST * _sum_of_squares(field(words, CFRC_EXT, 6 * bodies), math.inf), CONTACT_COST_LIMIT)
    return 1.25 * speed + (5.0 if healthy else 0.0) - 0.1 * effort - contact, not healthy


@jit
def _stands(task, positions, velocities):
    height, angle = positions[1], positions[2]
    if task == WALKER:
        return 0.8 < height < 2.0 and -1.0 < angle < 1.0
    for i in range(2, positions.size):
        if not abs(positions[i]) < 100.0:
            return False
    for speed in velocities:
        if not abs(speed) < 100.0:
            return False
    return height > 0.7 and -0.2 < angle < 0.2
