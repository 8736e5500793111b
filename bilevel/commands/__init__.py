"""The verbs of the command, one module each, and what they share: arguments, console, loading."""
