"""From a plan to code that runs: a readable module for torch.func, and a slow float64 oracle that checks it.

A backend says which steps of a plan it supports and turns those into Python; which step to take was decided before.
"""

if __name__ != "bilevel.backends":  # a second copy of every class: an object of one is no instance of the other
    raise ImportError(f"import bilevel.backends instead of {__name__}: this folder is part of the package bilevel")
