"""A model as transformers loads it: configuration, model and processor of a folder that `export --hf` writes.

The export copies these files, and the modules of ChatBridge that they import, beside the weights (cli/export_hf_code):
the folder works where ChatBridge is not installed. So they import as little as possible, and no optional package.
"""
