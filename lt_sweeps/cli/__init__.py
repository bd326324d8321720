"""What a person types and sees: the command line, its verbs and the view of a sweep at work.

Door: `command_line.main`.
"""
