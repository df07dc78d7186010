"""utils/parse_options.sh: what is an option, what is an error, what --help says."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

PARSER = Path(__file__).resolve().parent.parent / "utils" / "parse_options.sh"
SCRIPT = f"""\
#!/usr/bin/env bash
# Does something useful.
#
# Usage: script.sh [options] <dir>
set -euo pipefail

# What to run
stage=0          # first stage
stop_stage=10    # last stage
                 # (inclusive)
# How
force=false      # redo what is up to date
name=            # a name; empty: none
PRIVATE=1
. {PARSER}
echo "$stage|$stop_stage|$force|$name|$#|$*"
late=1
compgen -A function _po_ || true
compgen -v _po_ || true
"""


def call(tmp_path: Path, *words: str, script: str = SCRIPT, shell: tuple[str, ...] = ("bash",)):
    path = tmp_path / "script.sh"
    path.write_text(script)
    return subprocess.run([*shell, str(path), *words], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), "0|10|false||0|"),
        (("--stage", "3", "--stop-stage", "4"), "3|4|false||0|"),
        (("--stop_stage", "4"), "0|4|false||0|"),
        (("--stop-stage=4", "--name=a=b c"), "0|4|false|a=b c|0|"),
        (("--stage", "1", "--stage=2", "--stage", "3"), "3|10|false||0|"),
        (("--stage", "-1"), "-1|10|false||0|"),
        (("--name", "", "--force", "true"), "0|10|true||0|"),
        (("--name=", "--force=true"), "0|10|true||0|"),
        (("--name=--stage",), "0|10|false|--stage|0|"),
        (("--stage", "1", "a", "--stage", "2"), "1|10|false||3|a --stage 2"),
        (("--stage", "1", "--", "--stage", "2"), "1|10|false||2|--stage 2"),
        (("--",), "0|10|false||0|"),
        (("-x",), "0|10|false||1|-x"),
        (
            (
                "--name",
                "$(touch hacked) `x` \"'\\",
            ),
            "0|10|false|$(touch hacked) `x` \"'\\|0|",
        ),
    ],
)
def test_options(tmp_path, words, expected):
    done = call(tmp_path, *words)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == expected + "\n"  # and no function or variable of the parser is left behind


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--stop-stge", "3"), "unknown option --stop-stge; did you mean --stop-stage?"),
        (("--Force=true",), "unknown option --Force; did you mean --force?"),
        (("--forc",), "unknown option --forc; did you mean --force?"),
        (("--frobnicate", "3"), "unknown option --frobnicate; --help lists them"),
        (("--late", "2"), "unknown option --late; --help lists them"),
        (("--PRIVATE", "2"), "unknown option --PRIVATE; --help lists them"),
        (("--home", "/x"), "unknown option --home"),
        (("--stage[$(touch hacked)]=1",), "unknown option --stage[$(touch hacked)]"),
        (("--stage stop_stage=3",), "unknown option --stage stop-stage"),
        (("--stage",), "option --stage lacks its value"),
        (("--stage", "--force", "true"), "option --stage lacks its value"),
        (("--force", "yes"), "option --force: 'yes'; expected true or false"),
        (("--force=",), "option --force: ''; expected true or false"),
        (("--force", "True"), "option --force: 'True'; expected true or false"),
    ],
)
def test_errors_end_with_2(tmp_path, words, message):
    done = call(tmp_path, *words)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(f"script.sh: {message}")
    assert not (tmp_path / "hacked").exists()


@pytest.mark.parametrize("word", ["--help", "-h"])
def test_help(tmp_path, word):
    done = call(tmp_path, "--stage", "5", word)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        "Does something useful.\n\nUsage: script.sh [options] <dir>\n\nOptions:\n"
        "What to run\n"
        "  --stage              first stage [5]\n"
        "  --stop-stage         last stage [10]\n"
        "                       (inclusive)\n"
        "How\n"
        "  --force              redo what is up to date [false]\n"
        "  --name               a name; empty: none []\n"
    )


@pytest.mark.parametrize("name", ["line", "name", "known", "i", "words", "script"])
def test_an_option_may_have_any_name(tmp_path, name):
    """Variables inside the parser must not hide the script's."""
    script = f'#!/bin/bash\n{name}=false  # what\n. {PARSER}\necho "${name}"\n'
    assert call(tmp_path, f"--{name}", "true", script=script).stdout == "true\n"
    assert call(tmp_path, f"--{name}", "x", script=script).returncode == 2
    assert call(tmp_path, f"--{name}", "true", "-h", script=script).stdout.endswith(" what [true]\n")


COLLECTOR = f"""\
#!/bin/bash
set -euo pipefail
stage=0          # first stage
set=()           # a change (may be repeated)
more_options=()  # somebody else's
. {PARSER}
printf '<%s>' "$stage" "${{set[@]}}" -- "${{more_options[@]}}" -- "$@"
"""


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), "<0><--><-->"),
        (("--set", "a=b c", "--set=true", "--set", "x"), "<0><a=b c><true><x><--><-->"),
        (
            ("--root-dir", "/x y", "--stage", "1", "--n_x=2", "rest"),
            "<1><--><--root-dir></x y><--n-x><2><--><rest>",
        ),
    ],
)
def test_arrays_collect_values_and_foreign_options(tmp_path, words, expected):
    done = call(tmp_path, *words, script=COLLECTOR)
    assert (done.returncode, done.stdout, done.stderr) == (0, expected, "")


def test_a_foreign_option_still_needs_a_value_and_is_not_in_the_help(tmp_path):
    done = call(tmp_path, "--root-dir", script=COLLECTOR)
    assert (done.returncode, done.stderr) == (2, "script.sh: option --root-dir lacks its value\n")
    assert "more-options" not in call(tmp_path, "--help", script=COLLECTOR).stdout


def test_a_script_without_options_and_without_strict_mode(tmp_path):
    script = f"#!/bin/bash\nsource '{PARSER}'\necho \"$*\"\n"
    assert call(tmp_path, "a", "b", script=script).stdout == "a b\n"
    done = call(tmp_path, "--x", "1", script=script)
    assert (done.returncode, done.stdout) == (2, "")
    assert "unknown option --x; --help lists them" in done.stderr


def test_strict_mode_of_the_script_survives(tmp_path):
    script = SCRIPT.replace("late=1", 'echo "$-"')
    strict = call(tmp_path, script=script).stdout.splitlines()[1]
    assert {"e", "u"} <= set(strict)
