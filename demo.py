"""Chat with a trained model on a local page: `python demo.py --cfg-path X.yaml`, the same as `chatbridge demo`."""

from chatbridge.cli.demo import main
from chatbridge.common.errors import run_command

if __name__ == "__main__":
    run_command(main)
