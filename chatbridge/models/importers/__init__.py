"""Load released checkpoints of whole models into our components."""
