"""Construction and preparation of TextBind's conversations: `python -m dataset_prep.textbind COMMAND`.

A command is a module of this folder with its name, a docstring that --help prints, and

    add_arguments(parser)    adds its arguments
    run(asked)               does the work and returns the exit code

and a line in `__main__.COMMANDS`.
"""
