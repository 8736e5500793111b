"""The functions of an emitted module as kernels: traced to aten operators once, checked, then run without autograd."""
