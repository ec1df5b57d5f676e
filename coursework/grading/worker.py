"""The process in which a student's file runs, so that nothing in it can stop the grader.

`python worker.py exercise_1.py` loads the file, then answers requests from its standard input, one call of a function
each, until it is closed. Requests and replies are dictionaries of plain values and tensors. What the student's code
prints is dropped.
"""

import importlib.util
import io
import os
import sys
import traceback
import warnings
from functools import partial
from pathlib import Path

import torch

MEMORY_BYTES = 4 * 2**30  # that a student's file may take beyond what torch has taken at the start


# --- functions that a check hands to the student's function: they travel by name ----------------------------------


def quadratic(z):
    return -0.5 * (z - 1).square().sum(-1)


FUNCTIONS = {"quadratic": quadratic}


# --- what a check reads of the student's Pyro programs, which cannot travel: this runs beside them -----------------


def traced(program, x, parameters):
    """The sites that a program draws or observes, by name, in its order."""
    from pyro import poutine
    from pyro.poutine.util import site_is_subsample

    trace = poutine.trace(program).get_trace(x, parameters)
    trace.compute_log_prob()
    return {
        name: {
            "value": site["value"],
            "log_prob": site["log_prob"],
            "observed": bool(site["is_observed"]),
            "enumerate": site["infer"].get("enumerate") if site["infer"] else None,
            "in_plate": bool(site["cond_indep_stack"]),
        }
        for name, site in trace.nodes.items()
        if site["type"] == "sample" and not site_is_subsample(site)
    }


def enumerated_elbo(model, guide, x, parameters):
    """TraceEnum_ELBO of both programs, and the values that the guide drew for it."""
    from pyro import poutine
    from pyro.infer import TraceEnum_ELBO

    drawn = {}

    def recorded(*arguments):
        trace = poutine.trace(guide).get_trace(*arguments)
        drawn.update({name: trace.nodes[name]["value"] for name in trace.stochastic_nodes})

    loss = TraceEnum_ELBO(max_plate_nesting=1).loss(model, recorded, x, parameters)
    return {"elbo": -loss, "drawn": drawn}


PROBES = {"traced": traced, "enumerated_elbo": enumerated_elbo}


# --- one call -----------------------------------------------------------------------------------------------------


def load(path):
    """The student's file as a module; its folder is where it imports from."""
    sys.path[0] = str(path.parent)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def call(module, request):
    """The reply to a request: what a function or a probe of functions gives, or in a line what kept it from it."""
    functions = [getattr(module, name, None) for name in request["functions"]]
    for name, function in zip(request["functions"], functions, strict=True):
        if not callable(function):
            return {"problem": f"there is no function {name}"}
    name, probe = request["functions"][0], request["probe"]
    run = partial(PROBES[probe], *functions) if probe else functions[0]
    arguments = [unpack(argument) for argument in request["arguments"]]
    torch.manual_seed(request["seed"])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # none reaches the student
            value = plain(run(*arguments))
    except NotImplementedError:
        return {"not_done": True}
    except BaseException as error:  # SystemExit and KeyboardInterrupt, too
        return {"problem": describe(error, getattr(module, "__file__", None))}
    for position, (argument, packed) in enumerate(zip(arguments, request["arguments"], strict=True), 1):
        if isinstance(packed, torch.Tensor) and not torch.equal(argument.detach(), packed):
            return {"problem": f"{name} changes its argument {position} in place; the caller still needs it"}
    return {"value": value}


def unpack(argument):
    """A copy of tensors, the function of a name, the model of a file, or the value itself."""
    if isinstance(argument, torch.Tensor):
        return argument.clone()
    if isinstance(argument, (list, tuple)):
        return type(argument)(map(unpack, argument))
    if isinstance(argument, dict) and "call" in argument:
        return FUNCTIONS[argument["call"]]
    if isinstance(argument, dict) and "model" in argument:
        from pyro_vae import load as load_model

        return load_model(argument["model"])
    if isinstance(argument, dict):
        return {name: unpack(value) for name, value in argument.items()}
    return argument


def plain(value):
    """What a function returned as tensors, numbers, strings and lists of them: nothing that carries code."""
    if isinstance(value, torch.Tensor):
        dense = torch.Tensor.detach(value).to_dense() if value.layout != torch.strided else torch.Tensor.detach(value)
        return dense.cpu().clone(memory_format=torch.contiguous_format)
    if type(value).__module__ == "numpy":
        return plain(torch.as_tensor(value))
    if value is None or type(value) in (bool, int, float, str):
        return value
    if type(value) in (list, tuple):
        return type(value)(map(plain, value))
    if type(value) is dict:
        return {str(key): plain(item) for key, item in value.items()}
    raise TypeError(f"a {type(value).__name__} was returned, expected tensors or numbers")


def describe(error, path):
    """An exception in one line: what it is, and in which line of the student's file it arose."""
    if isinstance(error, SyntaxError) and error.filename == path:
        return f"syntax error in line {error.lineno}: {error.msg}"
    try:
        message = (str(error).strip().splitlines() or [""])[0]
    except Exception:
        message = ""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    where = f" in line {lines[-1]}" if lines else ""
    if isinstance(error, SystemExit):
        return f"the code ends the program{where} (sys.exit); a function should return its value"
    if isinstance(error, RecursionError):
        return f"a function calls itself without end{where} (RecursionError)"
    if isinstance(error, MemoryError) or "allocate memory" in message:
        return f"the code needs more than {MEMORY_BYTES / 2**30:.0f} GiB of memory{where}"
    return f"{type(error).__name__}{where}{': ' if message else ''}{message}"[:300]


# --- the process --------------------------------------------------------------------------------------------------


def send(stream, message):
    buffer = io.BytesIO()
    torch.save(message, buffer)
    stream.write(buffer.tell().to_bytes(8, "big") + buffer.getvalue())
    stream.flush()


def receive(stream):
    """The next message; EOFError at the end. Only tensors and plain values are unpickled."""
    header = stream.read(8)
    size = int.from_bytes(header, "big")
    if len(header) < 8 or size > MEMORY_BYTES:
        raise EOFError
    return torch.load(io.BytesIO(stream.read(size)), weights_only=True)


def limit_memory():
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    except (ImportError, AttributeError, ValueError, OSError):
        pass  # no such limit on this system


def main():
    path = Path(sys.argv[1]).resolve()
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):  # the student's own input and output
        os.dup2(nowhere, descriptor)
    limit_memory()
    send(replies, {"value": "ready"})
    try:
        module = load(path)
    except BaseException as error:
        send(replies, {"problem": f"the file cannot be loaded: {describe(error, str(path))}"})
        return
    send(replies, {"value": "loaded"})
    while True:
        try:
            request = receive(requests)
        except EOFError:
            return
        send(replies, call(module, request))


if __name__ == "__main__":
    main()
