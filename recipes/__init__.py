"""The methods that come with the package, each as a recipe, and the models, data and losses which they name.

A recipe `NAME.bl` here is found by its name alone, and `quick/NAME.bl` is its child with small sizes.
"""

if __name__ != "bilevel.recipes":  # a second copy of every class: an object of one is no instance of the other
    raise ImportError(f"import bilevel.recipes instead of {__name__}: this folder is part of the package bilevel")
