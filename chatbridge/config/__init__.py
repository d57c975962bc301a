"""From YAML files to checked dataclasses; no torch.

reading     yaml_io: YAML with lines and comments; merge: base files, the file, --options; options: one KEY=VALUE;
            interpolation: ${...}; origins: the file and line of every key; shipped: configs/ from any folder
checking    schema: mappings to dataclasses; constraints: ranges, units, existing files; scalars: single values;
            schema_messages: phrases; field_help: comments of fields as help
parts       registry: parts by file name, and plugins
versions    added_settings: defaults of settings added since a file was written; original_keys: keys of LAVIS's forks
"""
