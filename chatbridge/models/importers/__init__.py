"""Released checkpoints of whole models, taken apart into the parts of ours."""
