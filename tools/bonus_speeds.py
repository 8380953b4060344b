"""What bonuses cost: environment steps a second of whole training with each, beside training without, in turn.

    python tools/bonus_speeds.py [--environments ALE/Pong-v5 nbrl/Maze-v0] [--seconds 6] [--rounds 5]
        [--set field=value ...]

Prints the medians of the rounds and their ratios to that without a bonus; by A3C, whose steps are counted after each
20: PPO's, after each 1,024, need a minute a measurement. Run nothing else meanwhile.
"""

import argparse
import statistics

from nbrl import configure
from nbrl.arguments import settings_of
from nbrl.bench import training_speed
from nbrl.bonuses import BONUSES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environments", nargs="+", default=["ALE/Pong-v5", "nbrl/Maze-v0"])
    parser.add_argument("--seconds", type=float, default=6.0, help="of each measurement; default: 6")
    parser.add_argument("--rounds", type=int, default=5, help="whose medians count; default: 5")
    parser.add_argument("--set", metavar="field=value", nargs="+", default=[], help="as for nbrl train")
    options = parser.parse_args()
    for environment in options.environments:
        try:
            configs = {
                name: configure(environment, **{"method": "a3c"} | settings_of(options) | {"bonus": name})
                for name in (None, *BONUSES)
            }
        except ValueError as error:
            parser.error(str(error))
        rounds = [
            {name: training_speed(config, None, options.seconds) for name, config in configs.items()}
            for _ in range(options.rounds)
        ]
        medians = {name: statistics.median(one[name] for one in rounds) for name in configs}
        for name, speed in medians.items():
            print(f"{environment}, {name or 'no bonus'}: {speed:,.0f} steps/s, {speed / medians[None]:.3f}", flush=True)


if __name__ == "__main__":
    main()
