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
    import _codecs
    import _socket
    import atexit
    import ctypes
    import gc
    import resource

    # What is loaded is not taken apart again at a program's end, which would take longer than most
    # programs. Registered first, so it is called last.
    kept = {}

    def keep(thing):
        """Never release it. From 3.12 on it isn't even counted, so that its page stays shared."""
        if (3, 12) <= sys.version_info < (3, 14):
            ctypes.c_uint64.from_address(id(thing)).value = 0xFFFFFFFF
        else:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))

    def end():
        for name, module in kept.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]
        last.ends_with_0 = ends_with_0()

    atexit.register(end)

    class Last:
        """Is released when nothing of the program is left. The interpreter would now take itself
        apart, and write to most of the memory that it shares with its parent.
        """

        ends_with_0 = False

        def __call__(self, error):
            raise error

        def __del__(self):
            if self.ends_with_0:
                flush_all(None)
                leave(0)

    last = Last()
    # A place that is emptied after all modules, and that no program looks at.
    _codecs.register_error("code-executor", last)
    leave = os._exit
    flush_all = ctypes.PyDLL(None).fflush
    flush = type(sys.stdout).flush
    output_files = (sys.stdout, sys.stderr)

    def ends_with_0():
        """Whether the process can end with exit code 0 when the program's objects are gone. Calls
        nothing that the program has made.
        """
        if (
            sys.stdout is not output_files[0]
            or sys.stderr is not output_files[1]
            or not {"last_exc", "last_value"}.isdisjoint(vars(sys))  # one was not caught
            or not main_has_returned()
            or loaded_libraries() != libraries_at_first  # they may do something at the end
        ):
            return False
        try:
            for file in output_files:
                flush(file)
        except Exception:
            return False  # it will fail again, and make the exit code 120
        return True

    most_frames = 64
    frames = (ctypes.c_void_p * most_frames)()

    def main_has_returned():
        """False: the interpreter ends because of SystemExit. Its code is known only to the C
        function which has called this one.
        """
        if not hasattr(library, "backtrace"):
            return False
        count = library.backtrace(frames, most_frames)
        names = library.backtrace_symbols(frames, count)
        if not names:
            return False
        calls = [(name or b"").partition(b"(")[2].partition(b"+")[0] for name in names[:count]]
        library.free(names)
        if b"Py_Exit" in calls or b"_PyEval_EvalFrameDefault" not in calls:
            return False
        this = calls.index(b"_PyEval_EvalFrameDefault")
        return b"Py_RunMain" in calls[this : this + 5]

    class Loaded(ctypes.Structure):
        """dl_phdr_info."""

        _fields_ = [("_", ctypes.c_void_p * 4), ("additions", ctypes.c_ulonglong)]

    def loaded_libraries():
        found = []

        @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(Loaded), ctypes.c_size_t, ctypes.c_void_p)
        def stop_at_first(info, size, nothing):
            found.append(info.contents.additions)
            return 1

        library.dl_iterate_phdr(stop_at_first, None)
        return found

    library = ctypes.CDLL(None)
    if hasattr(library, "backtrace"):  # not in musl
        library.backtrace_symbols.restype = ctypes.POINTER(ctypes.c_char_p)
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
        keep(name)
        keep(kept[name])
    for finder in sys.path_importer_cache.values():
        keep(finder)  # with the listings of all folders that were searched
    loaded = {name.partition(".")[0] for name in kept}
    for name in own - loaded:
        sys.modules.pop(name, None)
    control.send(b"R")
    os.environb.pop(b"PYTHONPATH")
    script = sys.argv[0]
    script_folder = os.path.dirname(script) or "."

    def rehearse():
        """What a run will do, so that the pages to which it writes are copied before it comes."""
        main_has_returned()
        loaded_libraries()
        os.listdir(script_folder)
        list(os.environb.items())
        exec(compile("def f():\n    pass\nf()", script, "exec"), {})  # noqa: S102  # our own

    rehearse()  # loads what it needs
    libraries_at_first = loaded_libraries()
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
    rehearse()
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
    if watched and any(each.partition(".")[0] in watched for each in os.listdir(script_folder)):
        os.write(order_fd, b"C")
        os._exit(0)

    library.prctl(set_dumpable, 1, 0, 0, 0)
    try:
        with open("/proc/self/oom_score_adj", "wb", 0) as file:
            file.write(b"1000")
    except OSError:
        pass
    wanted = {name: value for name, _, value in (each.partition(b"=") for each in variables)}
    if list(os.environb.items()) != list(wanted.items()):
        os.environb.clear()
        os.environb.update(wanted)
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
