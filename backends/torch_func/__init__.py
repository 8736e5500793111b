"""The backend users run: a plan becomes a Python module of torch.func calls to be read, and that module kernels.

What is emitted leans on the small runtime beside it and on nothing of the compiler.
"""
