"""Train from a YAML file: `torchrun --nproc-per-node 8 train.py --cfg-path X.yaml`, the same as `chatbridge train`.

`build_and_train` in chatbridge/cli/train.py builds everything a run consists of, line by line.
"""

from chatbridge.cli.train import main
from chatbridge.common.errors import run_command

if __name__ == "__main__":
    run_command(main)
