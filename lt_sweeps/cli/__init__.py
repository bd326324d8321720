"""What a person types and sees: the command line, its verbs and the view of a sweep at work.

Start at `command_line.main`.
"""
