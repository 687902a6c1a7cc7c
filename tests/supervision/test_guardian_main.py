"""The guardian's program alone: what it ends, and what it leaves alone."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from prism.supervision import guardian

PROGRAM = Path(guardian.PROGRAM)


def test_a_stubborn_one_is_killed(is_alive):
    """Its program, with the time it gives left out: what it does last is what counts."""
    code = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up'); time.sleep(600)"
    program = PROGRAM.read_text()
    program = program.replace("EXIT_TIMEOUT = 1.0", "EXIT_TIMEOUT = 0.1")
    program = program.replace("KILL_TIMEOUT = 5.0", "KILL_TIMEOUT = 0.1")
    victim = subprocess.Popen(
        [sys.executable, "-u", "-c", code], stdout=subprocess.PIPE, start_new_session=True
    )
    assert victim.stdout.readline() == b"up\n"
    victim.stdout.close()
    subprocess.run(
        [sys.executable, "-I", "-S", "-c", program], input=b"+%d\n" % victim.pid, check=True
    )
    assert victim.wait() == -signal.SIGKILL


def test_a_stopped_one_is_killed_and_not_asked():
    """However long it would have been given."""
    program = PROGRAM.read_text().replace("EXIT_TIMEOUT = 1.0", "EXIT_TIMEOUT = 6000.0")
    victim = subprocess.Popen(["sleep", "600"], start_new_session=True)
    victim.send_signal(signal.SIGSTOP)
    os.waitpid(victim.pid, os.WUNTRACED)
    subprocess.run(
        [sys.executable, "-I", "-S", "-c", program], input=b"+%d\n" % victim.pid, check=True
    )
    assert victim.wait() == -signal.SIGKILL


def test_what_the_host_has_ended_itself_is_left_alone():
    other = subprocess.Popen(["sleep", "600"], start_new_session=True)
    told = b"+%d\n-%d\n+999999999\n" % (other.pid, other.pid)
    subprocess.run([sys.executable, "-I", "-S", str(PROGRAM)], input=told, check=True, timeout=20)
    assert other.poll() is None
    other.kill()
    other.wait()
