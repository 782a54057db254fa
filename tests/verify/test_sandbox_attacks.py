"""What hostile code may try. None of it earns reward, reaches outside, outlives its run, or stops the next one."""

import os
import secrets
import socket
import tempfile
import time
from pathlib import Path

import pytest

from h1r.verify.code_judge import judge
from h1r.verify.code_tests import parse_tests
from h1r.verify.sandbox import Isolation, Limits, SandboxPool, refusal

LIMITS = Limits(time_s=1.0, total_s=3.0, memory_bytes=256 << 20, scratch_bytes=4 << 20, output_bytes=1 << 20)
TOKEN = f"expected-{secrets.token_hex(16)}"
"""What a right answer would be: known to the parent alone, and not to be guessed."""

SYSCALL = "import ctypes; libc = ctypes.CDLL(None, use_errno=True)\n"
EVERY_FD = "import os\nfor fd in range(64):\n    try: os.write(fd, {data})\n    except OSError: pass\n"
FRAME = "import json, struct\ndef frame(m): b = json.dumps(m).encode(); return struct.pack('!I', len(b)) + b\n"
FIND = """
import sys
def hunt(values, seen=set()):
    for value in values:
        if isinstance(value, str) and value.startswith('expected-'): print(value); FOUND.append(value)
        elif isinstance(value, bytes) and b'expected-' in value: i = value.index(b'expected-'); FOUND.append(value[i:i+41].decode()); print(FOUND[-1])
        elif isinstance(value, (list, tuple, set)) and id(value) not in seen: seen.add(id(value)); hunt(value)
        elif isinstance(value, dict) and id(value) not in seen: seen.add(id(value)); hunt(value.values())
FOUND = []
"""

ATTACKS = {
    # ends before, or instead of, an answer
    "sys_exit": "import sys; sys.exit(0)",
    "os_exit": "import os; os._exit(0)",
    "system_exit_object": "raise SystemExit",
    "quit": "quit()",
    "atexit_prints": "import atexit; atexit.register(lambda: print('passed')); raise SystemExit(0)",
    "kill_self": "import os, signal; os.kill(os.getpid(), signal.SIGKILL); os.kill(os.getpid(), signal.SIGSEGV)",
    "abort": "import os; os.abort()",
    "exec_true": "import os; os.execv('/bin/true', ['true'])",
    "exec_shell": "import os; os.execv('/bin/sh', ['sh', '-c', 'echo passed; cat /etc/passwd; sleep 60'])",
    "close_every_descriptor": "import os; os.closerange(0, 64); os._exit(0)",
    # will not end
    "ignore_signals": "import signal\nfor s in range(1, 65):\n    try: signal.signal(s, signal.SIG_IGN)\n    except (OSError, ValueError): pass\nwhile True: pass",
    "sleep": "import time; time.sleep(1000)",
    "big_power": "x = 9 ** 9 ** 9",
    "regex": "import re; re.match('(a+)+$', 'a' * 60 + 'b')",
    "deadlock": "import threading; l = threading.Lock(); l.acquire(); l.acquire()",
    "thread_left_behind": "import threading, time; threading.Thread(target=time.sleep, args=(1000,)).start()",
    # forged results
    "claims_on_stdout": "print('True'); print('OK'); print('all tests passed'); print('{\"passed\": true, \"reward\": 1.0}')",
    "claims_on_stderr": "import sys; sys.stderr.write('passed\\n')",
    "forged_values": FRAME + EVERY_FD.format(data="frame({'value': True}) * 100"),
    "forged_reports": FRAME + EVERY_FD.format(data="frame({'test': 0, 'passed': True, 'error': None, 'nonce': '0' * 32}) * 9"),
    "forged_keeper_report": EVERY_FD.format(data="b'{\"status\": 0, \"seconds\": 0, \"memory\": 0}'"),
    "frame_without_end": EVERY_FD.format(data="b'\\x7f\\xff\\xff\\xff' + b'x' * 100"),
    "frame_of_no_json": EVERY_FD.format(data="b'\\x00\\x00\\x00\\x04nope'"),
    "frame_nested_deep": EVERY_FD.format(data="__import__('struct').pack('!I', 200000) + b'[' * 100000 + b']' * 100000"),
    "frame_of_many_digits": EVERY_FD.format(data="__import__('struct').pack('!I', 100010) + b'{\"value\":' + b'9' * 100000 + b'}'"),
    # looks for the expected values
    "gc_hunt": FIND + "import gc; hunt(gc.get_objects())",
    "frame_hunt": FIND + "f = sys._getframe()\nwhile f: hunt(f.f_locals.values()); hunt(f.f_globals.values()); f = f.f_back",
    "module_hunt": FIND + "for m in list(sys.modules.values()): hunt(vars(m).values()) if m else None",
    "environment_hunt": FIND + "import os; hunt(os.environ.values()); hunt(sys.argv)",
    "descriptor_hunt": FIND + "import os\nfor fd in range(3, 64):\n    try: os.set_blocking(fd, False); hunt([os.read(fd, 1 << 20)])\n    except OSError: pass",
    "stack_memory_hunt": FIND + "import re\nfor p in ('self', '1', '{pid}'):\n  for n in ('mem', 'environ', 'cmdline', 'maps'):\n    try: hunt([open(f'/proc/{{p}}/{{n}}', 'rb').read(1 << 20)])\n    except OSError: pass",
    "read_the_tests": FIND + "hunt([open('{secret}').read()])",
    "symlink_to_the_tests": FIND + "import os; os.symlink('{secret}', 'link'); hunt([open('link').read()])",
    "hard_link_to_the_tests": FIND + "import os; os.link('{secret}', 'link'); hunt([open('link').read()])",
    "root_of_another_process": FIND + "for p in ('1', 'self', '{pid}'):\n    try: hunt([open('/proc/' + p + '/root{secret}').read()])\n    except OSError: pass",
    "way_up": FIND + "import os\nos.chdir('../' * 20)\nhunt([open('.{secret}').read()])",
    "walk_for_the_tests": FIND + "import os\nfor d, _, fs in os.walk('/tmp'):\n    for f in fs:\n        try: hunt([open(os.path.join(d, f)).read(1000)])\n        except (OSError, ValueError): pass",
    "compile_error_includes": "exec(open('{secret}').read())",
    # memory, processes, disk, output
    "memory_bomb": "x = bytearray(1 << 40)",
    "memory_bomb_slow": "x = []\nwhile True: x.append(bytearray(1 << 20))",
    "anonymous_files": SYSCALL + "import os\nfds = []\nwhile True: fds.append(os.memfd_create('x')); os.write(fds[-1], bytes(1 << 20))",
    "fork_bomb": "import os\nwhile True: os.fork()",
    "fork_bomb_patient": "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
    "vfork_bomb": SYSCALL + "while libc.syscall(58) >= 0: pass\nimport subprocess; subprocess.run(['/bin/true'], check=True)",
    "clone_bomb": SYSCALL + "while libc.syscall(56, 17, 0, 0, 0, 0) >= 0: pass\nraise OSError",
    "multiprocessing": "import multiprocessing; p = multiprocessing.Process(target=print); p.start(); p.join()",
    "thread_bomb": "import threading, time\nthreading.stack_size(32768)\nwhile True: threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()",
    "disk_bomb": "i = 0\nwhile True:\n    i += 1\n    open(f'f{{i}}', 'wb').write(bytes(1 << 20))",
    "sparse_file": "f = open('f', 'wb'); f.truncate(1 << 40); raise OSError",
    "inode_bomb": "i = 0\nwhile True:\n    i += 1\n    open(f'f{{i}}', 'wb').close()",
    "endless_output": "while True: print('x' * 100000)",
    "endless_errors": "import sys\nwhile True: sys.stderr.write('x' * 100000)",
    "deep_recursion": "import sys; sys.setrecursionlimit(10 ** 9)\ndef g(): return g()\ng()",
    "deep_c_recursion": "x = []\nfor _ in range(10 ** 6): x = [x]\nrepr(x)",
    "many_digits": "import sys; sys.set_int_max_str_digits(0); print(10 ** 10 ** 7)",
    "many_descriptors": "import os\nwhile True: os.pipe()",
    "infinite_source": "(" * 100000,
    # network
    "tcp": "import socket; socket.create_connection(('127.0.0.1', {port}), 1)",
    "udp": "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', {port}))",
    "unix_socket": "import socket; socket.socket(socket.AF_UNIX).connect('{folder}/socket')",
    "abstract_socket": "import socket; socket.socket(socket.AF_UNIX).connect('\\0{abstract}')",
    "netlink": "import socket; socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)",
    "listen": "import socket; socket.create_server(('127.0.0.1', 0)).accept()",
    "url": "import urllib.request; urllib.request.urlopen('http://127.0.0.1:{port}/')",
    # other processes
    "kill_parent": "import os\nfor s in (15, 9): os.kill({pid}, s)",
    "kill_keeper": "import os\nfor s in (15, 9): os.kill(os.getppid(), s)",
    "kill_group": "import os; os.killpg(0, 9); os.killpg({pid}, 9)",
    "kill_everyone": "import os, signal\nsignal.signal(15, signal.SIG_IGN); os.kill(-1, 15); raise OSError",
    "signal_by_descriptor": "import os\nfd = os.open('out', os.O_RDWR | os.O_CREAT); import fcntl; fcntl.fcntl(fd, fcntl.F_SETOWN, {pid}); raise OSError",
    "ptrace": SYSCALL + "import os\nassert libc.ptrace(16, {pid}, 0, 0) == 0 and libc.ptrace(16, os.getppid(), 0, 0) == 0",
    "read_memory_of_others": SYSCALL + "import ctypes\nbuf = ctypes.create_string_buffer(8)\nv = (ctypes.c_void_p * 2)(ctypes.addressof(buf), 8)\nassert libc.process_vm_readv({pid}, v, 1, v, 1, 0) >= 0",
    "daemon": "import os\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        while True: pass",
    # rights
    "become_root": "import os; os.setuid(0)",
    "new_namespaces": SYSCALL + "assert libc.unshare(0x10020000) == 0",
    "mount": SYSCALL + "assert libc.mount(b'tmpfs', b'/tmp', b'tmpfs', 0, None) == 0",
    "chroot": "import os; os.chroot('/')",
    "undo_restrictions": SYSCALL + "assert libc.prctl(22, 0, 0, 0, 0) == 0 and libc.prctl(38, 0, 0, 0, 0) == 0",
    "outlive_parent": SYSCALL + "assert libc.prctl(1, 0, 0, 0, 0) == 0",
    "raise_limits": "import resource; resource.setrlimit(resource.RLIMIT_AS, (-1, -1))",
    "kernel_interfaces": SYSCALL + "assert any(libc.syscall(n, 0, 0, 0, 0, 0) >= 0 for n in (321, 298, 425, 250, 248, 175, 246, 304))",
    # writes outside
    "write_outside": "open('{folder}/written', 'w').write('x')",
    "overwrite_the_tests": "open('{secret}', 'w').write('x')",
    "delete_outside": "import os; os.remove('{secret}')",
    "change_rights_outside": "import os; os.chmod('{secret}', 0); os.utime('{secret}', (0, 0))",
    "poison_packages": "import os, sys\nfor p in sys.path:\n    open(os.path.join(p, 'sitecustomize.py'), 'w').write('x')",
    "shared_memory_file": "open('/dev/shm/h1r-attack', 'w').write('x')",
    # the harness
    "replace_builtins": "import builtins\nfor n in ('isinstance', 'len', 'str', 'repr', 'type', 'hash', 'all', 'any', 'compile', 'exec', 'open'):\n    setattr(builtins, n, lambda *a, **k: True)",
    "poison_modules": "import sys\nfor n in list(sys.modules): sys.modules[n] = None",
    "replace_the_codec": FRAME + "import sys\nfor m in list(sys.modules.values()):\n    for n in ('encode', 'dump_frame', 'write_all', '_reply'):\n        if hasattr(m, n): setattr(m, n, lambda *a, **k: frame({{'value': True}}))",
    "replace_compare_functions": "import operator, math\noperator.eq = math.isclose = lambda *a, **k: True",
    "trace_the_harness": "import sys, threading\nsys.settrace(lambda *a: None); sys.setprofile(lambda *a: None); sys.excepthook = lambda *a: None; sys.exit = print",
    "no_more_assertions": "import ast, builtins\nbuiltins.AssertionError = type('Never', (Exception,), {{}})",
}  # fmt: skip
"""Run as the top of a program, and as the top of a module whose function is tested. `{{` stands for one brace."""

ALWAYS = "\n".join(
    f"    def __{name}__(self, *a): return True" for name in ("eq", "ne", "lt", "le", "gt", "ge", "bool", "contains")
)
RESULTS = {
    "equal_to_all": f"class E:\n{ALWAYS}\ndef f(): return E()",
    "text_equal_to_all": f"class E(str):\n{ALWAYS}\ndef f(): return E('x')",
    "int_equal_to_all": f"class E(int):\n{ALWAYS}\ndef f(): return E(1)",
    "list_equal_to_all": f"class E(list):\n{ALWAYS}\ndef f(): return E([1])",
    "hidden_methods": "class E:\n    def __getattr__(self, n): return lambda *a, **k: True\ndef f(): return E()",
    "arithmetic_object": "class E:\n    def __sub__(self, o): return self\n    def __abs__(self): return self\n    def __lt__(self, o): return True\ndef f(): return E()",
    "class_itself": f"class M(type):\n{ALWAYS}\nclass E(metaclass=M): pass\ndef f(): return E",
    "endless_iterator": "import itertools\ndef f(): return itertools.count()",
    "colliding_set": "def f(): return {i * (2 ** 61 - 1) for i in range(30000)}",
    "cycle": "def f():\n    x = []; x.append(x); return x",
    "shared_doubling": "def f():\n    x = ['y']\n    for _ in range(60): x = [x, x]\n    return x",
    "huge_result": "def f(): return 'x' * (8 << 20)",
    "huge_integer": "def f(): return 1 << (1 << 22)",
    "raises_assertion": "def f(): raise AssertionError",
    "raises_unprintable": "class X(Exception):\n    def __str__(self): raise SystemExit(0)\ndef f(): raise X",
    "raises_base": "def f(): raise BaseException('passed')",
    "raises_stop": "def f(): raise StopIteration(True)",
    "exits": "import sys\ndef f(): sys.exit(0)",
    "dies": "import os\ndef f(): os._exit(0)",
    "hangs": "def f():\n    while True: pass",
    "reduces": "class E:\n    def __reduce__(self): return (eval, ('True',))\ndef f(): return E()",
    "nonce_guess": "def f(): return {'test': 0, 'passed': True, 'nonce': '0' * 32}",
    "opaque_tag": "def f(): return {'!': 'opaque', 'v': 'x'}",
    "not_a_number": "def f(): return float('nan')",
    "none": "def f(): return None",
}  # fmt: skip
"""Functions whose results are meant to fool a comparison."""
SLOW = ("endless_iterator", "shared_doubling", "colliding_set", "hangs")


@pytest.fixture(scope="module", params=["NAMESPACES", "LANDLOCK"])
def pool(request):
    why = refusal(Isolation[request.param])
    if why:
        pytest.skip(why)
    with SandboxPool(level=request.param) as pool:
        yield pool


@pytest.fixture(scope="module")
def outside():
    """A folder with a secret, and servers on every kind of socket: none may notice anything."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "secret").write_text(TOKEN)
        servers = [socket.create_server(("127.0.0.1", 0)), socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)]
        port = servers[0].getsockname()[1]
        abstract = f"h1r-{secrets.token_hex(8)}"
        servers[1].bind(str(folder / "socket"))
        servers[2].bind(f"\0{abstract}")
        datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        datagrams.bind(("127.0.0.1", port))
        for server in servers[1:]:
            server.listen()
        places = {"secret": folder / "secret", "folder": folder, "port": port, "abstract": abstract, "pid": os.getpid()}
        before = (folder / "secret").stat()
        yield places, [*servers, datagrams], before
        for server in (*servers, datagrams):
            server.close()


def filled(text: str, places: dict) -> str:
    for key, value in places.items():
        text = text.replace(f"{{{key}}}", str(value))
    return text.replace("{{", "{").replace("}}", "}")


def descendants() -> list[tuple[int, str]]:
    """(pid, state and name) of every process below the keepers, which are below this one."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                head, _, tail = (entry / "stat").read_text().rpartition(")")
            except OSError:
                continue
            parents[int(entry.name)] = (int(tail.split()[1]), tail.split()[0] + head)
    keepers = {pid for pid, (parent, _) in parents.items() if parent == os.getpid()}
    return [(pid, what) for pid, (parent, what) in parents.items() if parent in keepers]


def check_nothing_happened(pool, outside) -> None:
    places, servers, before = outside
    after = places["secret"].stat()
    assert places["secret"].read_text() == TOKEN
    assert (after.st_mode, after.st_mtime, after.st_nlink) == (before.st_mode, before.st_mtime, before.st_nlink)
    assert sorted(path.name for path in places["folder"].iterdir()) == ["secret", "socket"]
    assert not Path("/dev/shm/h1r-attack").exists()
    for server in servers:
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.recv(1) if server.type == socket.SOCK_DGRAM else server.accept()
    assert descendants() == []
    with pool.lease() as slot:
        honest = judge(slot, "print(input())", "python", parse_tests([{"input": TOKEN, "output": TOKEN}]), LIMITS)
    assert honest.correct


@pytest.mark.parametrize("name", ATTACKS)
def test_a_hostile_program_earns_nothing_and_reaches_nothing(name, pool, outside) -> None:
    code = filled(ATTACKS[name], outside[0])
    started = time.monotonic()
    with pool.lease() as slot:
        result = judge(slot, code, "python", parse_tests([{"input": "3\n", "output": TOKEN}]), LIMITS)
    assert not result.correct
    assert result.passed == 0
    assert time.monotonic() - started < 5 * LIMITS.time_s
    check_nothing_happened(pool, outside)


@pytest.mark.parametrize("name", ATTACKS)
def test_a_hostile_module_earns_nothing_and_reaches_nothing(name, pool, outside) -> None:
    """The attack at import, then a function that returns what the attack may have found."""
    code = filled(ATTACKS[name], outside[0]) + "\n\ndef f():\n    return (globals().get('FOUND') or ['nothing'])[0]\n"
    calls = parse_tests({"fn_name": "f", "inputs": [[], []], "outputs": [TOKEN, TOKEN]})
    checks = parse_tests([f"assert f() == {TOKEN!r}", f"assert f() == {TOKEN!r}"])
    with pool.lease() as slot:
        assert judge(slot, code, "python", calls, LIMITS).passed == 0
        assert judge(slot, code, "python", checks, LIMITS).passed == 0
    check_nothing_happened(pool, outside)


@pytest.mark.parametrize("name", RESULTS)
def test_a_result_made_to_fool_a_comparison_does_not(name, pool, outside) -> None:
    calls = parse_tests({"fn_name": "f", "inputs": [[]], "outputs": ['"right"']})
    asserts = ["f() == 'right'", "f() == 3", "abs(f() - 3) < 1e-6", "f() != f()", "'right' in f()", "f() in ['right']",
               "set(f()) == {'right'}", "f() == [1, 2]", "f() > 3", "f()['key'] == 1", "not f()"]  # fmt: skip
    fooled = {"not_a_number": ["f() != f()"], "none": ["not f()"]}
    with pool.lease() as slot:
        assert judge(slot, RESULTS[name], "python", calls, LIMITS).passed == 0
        for condition in asserts[: 1 if name in SLOW else None]:
            tests = parse_tests([f"assert {condition}"])
            expected = condition in fooled.get(name, [])
            assert judge(slot, RESULTS[name], "python", tests, LIMITS).correct is expected, condition
    check_nothing_happened(pool, outside)
