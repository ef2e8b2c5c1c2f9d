"""Names, numbers and texts that nobody expects in a file."""

from __future__ import annotations

#: Names of layers, blobs, files: what a terminal, a plot, a page or a path may act on.
NAMES = (
    "", " ", "x"*3000, "\x1b[31mred", "\x1b]0;title\x07", "\x9b2J", "a\rb", "a\nb", "a\tb",
    "a\0b", "\u202eevil", "\u2066x", "a\u2028b", "\u200fx", "\ufeff", "$x$", "$\\frac{1", "_{",
    "^", "\\", "a_b^c$", "%s%n", "{}", "{0}", "[/bold]", "[red]x", ":fire:",
    "<script>alert(1)</script>", "';--", '"', "../x", "/abs", "~", "-", "--json", "größe", "名",
    "🔥", "e\u0301", "NaN", "None",
)  # fmt: skip

#: As they stand in a prototxt, where a number or word is expected.
VALUES = (
    "0", "1", "-1", "2", "3", "7", "13", "255", "65536", "2147483647", "2147483648",
    "-2147483648", "4294967295", "4294967296", "9223372036854775807", "18446744073709551616",
    "1"*400, "0.5", "-0.5", "1e999", "-1e999", "1e-400", "nan", "inf", "-inf", "1e308", "0x7f",
    "017", "1.f", "true", "false", "TEST", "TRAIN", "MAX", "AVE", "LMDB", "LEVELDB", "CPU", "GPU",
    '""', '"x"', "'", '"', "{", "}", "[", "]", "[1, 2]", "[]", ":", ";", ",", "#", "-", "null",
)  # fmt: skip

#: Values of options and variables.
ARGUMENTS = (
    "", " ", "0", "-0", "1", "-1", "2", "8", "32", "1e3", "1e999", "nan", "inf", "-inf", "0.5",
    "1%", "0%", "100%", "101%", "-5%", "80%", "auto", "4GiB", "1MiB", "0B", "4", "1e30GiB",
    "-1GiB", "KiB", "9"*400, "٣", "½", "1_0", "0x10", "1,2", ",", "a,b,,", "1-2", "x", "x=1", "=",
    "a=1x2x3", "data=1x8x8", "data=0", "data=-1x2", "data=9999999999x9", "net.prototxt",
    "missing", "/", ".", "..", "/dev/null", "/dev/zero", "/proc/self/mem", "~nouser/x", "~",
    "\x1b[31m", "\u202e", "\udce9", "a\nb", "$HOME", "%s", "{}", "--", "-", "--help", "TRAIN",
    "gpu", "cpu", "scale:0.5", "stop", "rollback:0", "rollback:nan", "rollback:0.5", "all",
    "none", "docker", "docker:x", "podman:",
)  # fmt: skip
