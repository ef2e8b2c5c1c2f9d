"""One python of the runtime that has imported caffe and forks a child for each piece of code.

Importing caffe takes seconds; a fork takes milliseconds. Runs under the runtime's own Python: the
standard library and caffe only. Requests and answers are JSON lines on stdin and stdout.
"""

import json
import os
import sys
import traceback

import caffe  # noqa: F401  # what the children find imported


def serve(request):
    """Runs the code of a request in this (forked) process; never returns."""
    status = 1
    try:
        for number, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
        os.chdir(request["cwd"])
        sys.argv = ["-c"] + request["args"]
        sys.path.insert(0, "")
        sys.stdout = os.fdopen(1, "w")
        sys.stderr = os.fdopen(2, "w")
        exec(compile(request["code"], "<pycaffe>", "exec"), {"__name__": "__main__"})
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def main():
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            serve(json.loads(line))
        status = os.waitpid(child, 0)[1]
        code = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
        answers.write(str(code) + "\n")
        answers.flush()


main()
