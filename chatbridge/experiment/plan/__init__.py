"""What a training run will need and do, before it starts: `chatbridge plan` and `chatbridge train --check`."""

from chatbridge.experiment.plan.run_text import plan, source_rows

__all__ = ["plan", "source_rows"]
