"""From text to a checked program: grammar, syntax tree, names, shapes, and the layout of a recipe.

Nothing here runs a recipe, and nothing here imports torch or a user's Python, so that checking a file is instant.
"""

if __name__ != "bilevel.dsl":  # a second copy of every class: an object of the one is not an instance of the other
    raise ImportError(f"import bilevel.dsl instead of {__name__}: this folder is part of the package bilevel")
