"""Triton's interpreter without what it repeats or adds in each program: a third to a half of its time.

A launch replaces the functions of triton.language. Each call of another jitted function does so again, which finds
nothing left to replace. The NumPy dtype of each value is looked up in a dict that is built for the look-up. And each
sum or product of integers is computed twice to see whether it overflows, which no GPU does: here it wraps as on a GPU,
and tests with tensors of more than 2^31 elements meet the wrong address.
"""

import dataclasses

from triton.runtime import interpreter


def quicken() -> None:
    """Patch the interpreter of this process; leave a version of Triton that has other internals as it is."""
    names = "GridExecutor", "_patch_lang", "_get_np_dtype", "interpreter_builder"
    if not all(hasattr(interpreter, name) for name in names):
        return
    launch, patch, find = interpreter.GridExecutor.__call__, interpreter._patch_lang, interpreter._get_np_dtype
    patched, dtypes = set(), {}  # modules in this launch, dtypes by name

    def launched(self, *arguments, **options):
        patched.clear()
        return launch(self, *arguments, **options)

    def patched_once(function):
        module = id(function.__globals__)
        if module in patched:
            return None  # nothing restores what a call inside a kernel has replaced
        patched.add(module)
        return patch(function)

    def found(dtype):
        if dtype.name not in dtypes:
            dtypes[dtype.name] = find(dtype)
        return dtypes[dtype.name]

    interpreter.GridExecutor.__call__ = launched
    interpreter._patch_lang, interpreter._get_np_dtype = patched_once, found
    builder = interpreter.interpreter_builder
    builder.options = dataclasses.replace(builder.options, sanitize_overflow=False)
