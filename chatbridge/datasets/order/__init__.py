"""The order of the data, as a pure function of (seed, step, position): nothing is stored, so a resume is an integer.

mixture       which source each conversation of a step comes from, and the samples of a step split over ranks
joint         several mixtures, all of them in every step
grouping      a window of steps sorted by length, for less padding
shuffle       the order of the samples inside one source
held_out      samples kept for validation, and the order of the others
permutation   the arithmetic of both: keyed hashes and permutations without a list in memory
shares        from the weights of the YAML to shares of a run: sizes, temperature, limits
"""
