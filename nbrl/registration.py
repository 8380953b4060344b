"""The environments that are compiled here, one table, and the ids under which gymnasium knows them.

It imports nothing, so that `import nbrl` stays quick. gymnasium keeps no list of packages to ask: an id is known once
somebody has registered it. `import nbrl` does so if gymnasium is there already, `import nbrl.envs` always;
``gymnasium.make("nbrl.envs:nbrl/Maze-v0")`` needs neither.
"""

from typing import Any, NamedTuple


class Native(NamedTuple):
    """How one is made, and what it mirrors."""

    function: str  # "module:function" of nbrl.envs; imported when it is asked for, since it compiles
    settings: dict[str, Any] = {}  # noqa: RUF012 - never written to
    mirrors: str = ""  # entry point of the environment that gymnasium has under this id, whose numbers it gives
    max_episode_steps: int | None = None  # of that registration
    several_agents: bool = False  # which gymnasium does not know: see `nbrl.envs.pettingzoo`


def _mujoco(name: str, entry_point: str, limit: int = 1000) -> Native:
    return Native("mujoco:make", {"name": name}, f"gymnasium.envs.mujoco.{entry_point}", limit)


_CLASSIC = "gymnasium.envs.classic_control."
# By id; gymnasium's own is this one with nbrl/ in front.
NATIVE: dict[str, Native] = {
    "Bricks-v0": Native("bricks:bricks"),
    "CartPole-v1": Native("classic:cart_pole", mirrors=f"{_CLASSIC}cartpole:CartPoleEnv", max_episode_steps=500),
    "Catch-v0": Native("classic:catch"),
    "Cue-v0": Native("cue:cue"),
    "MountainCarContinuous-v0": Native(
        "continuous:mountain_car",
        mirrors=f"{_CLASSIC}continuous_mountain_car:Continuous_MountainCarEnv",
        max_episode_steps=999,
    ),
    "Pendulum-v1": Native("continuous:pendulum", mirrors=f"{_CLASSIC}pendulum:PendulumEnv", max_episode_steps=200),
    "PendulumPixels-v0": Native("continuous:pendulum_pixels"),
    "Rooms-v0": Native("rooms:rooms"),
    "Ant-v5": _mujoco("Ant-v5", "ant_v5:AntEnv"),
    "HalfCheetah-v5": _mujoco("HalfCheetah-v5", "half_cheetah_v5:HalfCheetahEnv"),
    "Hopper-v5": _mujoco("Hopper-v5", "hopper_v5:HopperEnv"),
    "Humanoid-v5": _mujoco("Humanoid-v5", "humanoid_v5:HumanoidEnv"),
    "HumanoidStandup-v5": _mujoco("HumanoidStandup-v5", "humanoidstandup_v5:HumanoidStandupEnv"),
    "InvertedDoublePendulum-v5": _mujoco(
        "InvertedDoublePendulum-v5", "inverted_double_pendulum_v5:InvertedDoublePendulumEnv"
    ),
    "InvertedPendulum-v5": _mujoco("InvertedPendulum-v5", "inverted_pendulum_v5:InvertedPendulumEnv"),
    "Pusher-v5": _mujoco("Pusher-v5", "pusher_v5:PusherEnv", 100),
    "Reacher-v5": _mujoco("Reacher-v5", "reacher_v5:ReacherEnv", 50),
    "Swimmer-v5": _mujoco("Swimmer-v5", "swimmer_v5:SwimmerEnv"),
    "Walker2d-v5": _mujoco("Walker2d-v5", "walker2d_v5:Walker2dEnv"),
    "nbrl/DeepSea-v0": Native("deep_sea:deep_sea"),
    "nbrl/DoorKey-8x8-v0": Native("minigrid:door_key"),
    "nbrl/KeyCorridorS3R3-v0": Native("minigrid:key_corridor"),
    "nbrl/MultiRoom-N7-S4-v0": Native("minigrid:multi_room"),
    "nbrl/Lever-v0": Native("agents.lever:lever", several_agents=True),
    "nbrl/SwitchRiddle-v0": Native("agents.switch_riddle:switch_riddle", several_agents=True),
    "nbrl/TrafficJunction-v0": Native("agents.traffic_junction:traffic_junction", several_agents=True),
    "nbrl/Maze-v0": Native("maze:maze"),
    "nbrl/MazeApples-v0": Native("maze:maze", {"portal": False}),
    "nbrl/MazePortal-v0": Native("maze:maze", {"apples": 0}),
    "nbrl/MazeFixed-v0": Native("maze:maze", {"fixed": True}),
    "nbrl/MazeSparse-v0": Native("maze:maze", {"fixed": True, "apples": 0, "distance": 24}),
    "nbrl/MazeVerySparse-v0": Native("maze:maze", {"fixed": True, "apples": 0, "distance": 30}),
}
MAZES = {name: native.settings for name, native in NATIVE.items() if native.function == "maze:maze"}
MUJOCO = tuple(name for name, native in NATIVE.items() if native.function == "mujoco:make")
NAMESPACE = "nbrl/"


def register() -> None:
    """Tell gymnasium, once."""
    import gymnasium

    for name, native in NATIVE.items():
        own = NAMESPACE + name.removeprefix(NAMESPACE)
        if own not in gymnasium.registry and not native.several_agents:
            if name in MAZES:
                gymnasium.register(own, "nbrl.envs.maze.gym:MazeEnv", kwargs=native.settings)
            else:
                gymnasium.register(own, "nbrl.envs.native_env:NativeEnv", kwargs={"environment": own})


def native_name(environment: str) -> str | None:
    """The name in `NATIVE` of the environment that an id means; None where it means somebody else's.

    An id without nbrl/ is ours where gymnasium has none of that name, or has the one that ours mirrors.
    """
    import gymnasium

    name = environment.removeprefix(NAMESPACE)
    if environment.startswith(NAMESPACE):
        return next((known for known in (environment, name) if known in NATIVE), None)
    if name not in NATIVE:
        return None
    theirs, native = gymnasium.registry.get(name), NATIVE[name]
    if theirs is None:
        return name
    found = (theirs.entry_point, theirs.max_episode_steps, dict(theirs.kwargs), tuple(theirs.additional_wrappers))
    return name if found == (native.mirrors, native.max_episode_steps, {}, ()) else None
