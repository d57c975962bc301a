"""Train from a YAML file: `torchrun --nproc-per-node 8 train.py --cfg-path X.yaml`, the same as `chatbridge train`.

What a run is built from stands in chatbridge/cli/train.py, line by line.
"""

from chatbridge.cli.train import main
from chatbridge.common.errors import run_command

if __name__ == "__main__":
    run_command(main)
