# mypy: ignore-errors
# `sitecustomize` of an interpreter that the runner has started ahead of a program (standby.c). It
# loads the environment's modules, and forks a child ahead of each run. The child returns from here
# when its run is wanted: then the interpreter itself goes on to the program's file, as it was told
# on its command line, and nothing of this is left.


def wait_for_a_run():
    import os
    import sys

    control_fd = 3

    def give_up(reason):
        try:
            os.write(control_fd, b"E" + reason.encode(errors="replace")[:250])
        finally:
            os._exit(1)

    first = set(sys.modules)
    folder = sys.path.pop(0)
    sys.path_importer_cache.pop(folder, None)
    from _frozen_importlib_external import PathFinder  # `importlib` would leave traces

    if own := PathFinder.find_spec("sitecustomize", sys.path):
        give_up(f"the image has a sitecustomize of its own, which would be left out: {own.origin}")
    import _socket
    import atexit
    import ctypes
    import gc
    import resource

    # What is loaded is not taken apart again at a program's end, which would take longer than most
    # programs. Registered first, so it is called last.
    kept = {}

    def keep():
        for name, module in kept.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]

    atexit.register(keep)

    library = ctypes.CDLL(None)
    own = set(sys.modules) - first
    set_dumpable = 4
    if library.prctl(set_dumpable, 0, 0, 0, 0) != 0:
        give_up("programs could read it, because this kernel lacks PR_SET_DUMPABLE")
    control = _socket.socket(fileno=control_fd)
    control.send(b"D")
    threaded = ""
    for name in filter(None, control.recv(65536)[:-1].decode().split(",")):
        try:
            __import__(name)
        except BaseException as error:
            give_up(f"preload: {name} can't be imported: {type(error).__name__}: {error}")
        if not threaded and len(os.listdir("/proc/self/task")) > 1:
            threaded = name
    if threaded and len(os.listdir("/proc/self/task")) > 1:
        give_up(f"preload: {threaded} has started a thread, and a process with threads can't fork")
    for name in set(sys.modules) - first - own:
        kept[name] = sys.modules[name]
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(kept[name]))
    loaded = {name.partition(".")[0] for name in kept}
    for name in own - loaded:
        sys.modules.pop(name, None)
    control.send(b"R")
    gc.collect()
    gc.freeze()

    input_output_priority = {"x86_64": 252, "aarch64": 31}[os.uname().machine]

    def inherited():
        """What a child takes over, and a program of the same user can change from outside."""
        return (
            [resource.getrlimit(each) for each in range(16)],
            os.getpriority(os.PRIO_PROCESS, 0),
            os.sched_getaffinity(0),
            os.sched_getscheduler(0),
            library.syscall(input_output_priority, 1, 0),
            len(os.listdir("/proc/self/task")),  # threads are not there in a child
        )

    at_first = inherited()

    def fork():
        """Whether this is the child."""
        if inherited() != at_first or at_first[-1] != 1:
            os._exit(1)
        process = os.fork()
        if process:
            os.waitpid(process, 0)
            return False
        between = os.getpid()
        if os.fork():
            os._exit(0)
        try:
            while True:  # nothing of the process between is to be left beside a program
                os.kill(between, 0)
                os.sched_yield()
        except ProcessLookupError:
            return True

    while True:
        text, rights, _, _ = control.recvmsg(1, _socket.CMSG_SPACE(16))
        if not text:
            os._exit(0)
        fds = memoryview(rights[0][2]).cast("i").tolist()
        if fork():
            break
        for fd in fds:
            os.close(fd)

    control.close()
    os.setsid()
    order_fd = fds.pop()
    for number, fd in enumerate(fds):
        os.dup2(fd, number)
        os.close(fd)
    if "numpy.random" in sys.modules:  # others renew their seeds by themselves
        sys.modules["numpy.random"].seed()
    os.write(order_fd, b"R%d" % os.getpid())

    order = b""
    while len(order) < 4 or len(order) < 4 + int.from_bytes(order[:4], "big"):
        piece = os.read(order_fd, 65536)
        if not piece:
            os._exit(0)
        order += piece
    argument_count = int.from_bytes(order[4:6], "big")
    strings = order[8:-1].split(b"\0")
    variables = strings[argument_count:]
    arguments = [os.fsdecode(each) for each in strings[:argument_count]]

    # A file of the program's folder that would have been imported in place of what is loaded.
    hidden = {"matplotlib": "matplotlibrc"}
    watched = loaded | {file for module, file in hidden.items() if module in loaded}
    script = sys.argv[0]
    folder = os.path.dirname(script) or "."
    if watched and any(each.partition(".")[0] in watched for each in os.listdir(folder)):
        os.write(order_fd, b"C")
        os._exit(0)

    library.prctl(set_dumpable, 1, 0, 0, 0)
    try:
        with open("/proc/self/oom_score_adj", "wb", 0) as file:
            file.write(b"1000")
    except OSError:
        pass
    for name in list(os.environb):
        del os.environb[name]
    for variable in variables:
        name, _, value = variable.partition(b"=")
        os.environb[name] = value
    # Not the module that is kept from the garbage collector, as all of the parent's objects are.
    main = type(sys)("__main__")
    main.__dict__.update(sys.modules["__main__"].__dict__, __annotations__={})
    sys.modules["__main__"] = main
    sys.argv[1:] = arguments[arguments.index(script) + 1 :]
    sys.orig_argv[:] = arguments
    os.write(order_fd, b"G")
    os.close(order_fd)


try:
    wait_for_a_run()
except BaseException as error:
    # No hook may fail: the interpreter would go on to a program's file that nobody asked it to run.
    import os

    try:
        os.write(3, f"E{type(error).__name__}: {error}".encode(errors="replace")[:250])
    finally:
        os._exit(1)
raise ImportError(name="sitecustomize")  # as if there were none
