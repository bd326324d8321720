"""What a person types and sees: the command line, its verbs and the status of a sweep.

Start at `command_line.main`.
"""
