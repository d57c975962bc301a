"""Our parts against numbers of the reference: one module per kind of case, found by the name in the sidecar."""
