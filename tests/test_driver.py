"""run.sh: options, stages by number or name, what is checked first, resuming hints, the same stage through Slurm."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY, make_source
from slurm_cluster import slurm  # noqa: F401

from espnet_musa.bin import check
from espnet_musa.bin.plan import check_jobs, option_sets
from espnet_musa.config import Recipe
from espnet_musa.errors import UserError

RECIPE = (
    "name: t\nsystems: [orig, b2_mcadams]\nevaluators: [asv_resemblyzer]\ncorpora: {librispeech: {root: null}}\n"
    "options: {librispeech: corpora.librispeech.root}\nformat: {roles: [utility]}\nanonymize_roles: [utility]\n"
)


@pytest.fixture
def root(tmp_path) -> Path:
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf/recipe.yaml").write_text(RECIPE)
    make_source(tmp_path / "data" / "s")
    return tmp_path


def run(root: Path, *options: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [REPOSITORY / "run.sh", "--config", "conf/recipe.yaml", *options],
        cwd=root, env={**os.environ, "CALLED_FROM": str(root), **environment},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def wavs(place: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(place.glob("wav/*.wav"))}


def test_help_names_options_and_stages():
    shown = subprocess.run(
        [REPOSITORY / "run.sh", "--help"], capture_output=True, text=True, check=True
    ).stdout
    for word in ("--stop-stage", "--systems", "--force", "5 anonymize", "egs/mini"):
        assert word in shown


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--stage", "anonymise"], "unknown stage 'anonymise'"),
        (["--sytems", "orig"], "unknown option --sytems; did you mean 'systems'?"),
        (["--librispech", "x"], "unknown option --librispech; did you mean 'librispeech'?"),
        (["--systems", "b2_mcadam"], "no system named 'b2_mcadam'; did you mean"),
        (
            ["--set", "b2_mcadams.params.lpc_ordr=16"],
            "system 'b2_mcadams': params of McAdams: unknown key 'lpc_ordr'; did you mean 'lpc_order'?",
        ),
        (["--cmd", "slrum"], "--cmd 'slrum': there is no 'slrum'"),
        (["--device", "cudaa"], "--device cudaa: "),
        (["--seed", "abc"], "error: --seed: 'seed' is 'abc'; expected a whole number"),
        (["--force", "yes"], "expected true or false"),
        (["--nj", "0"], "expected a whole number from 1"),
        (["stage"], "unexpected 'stage'"),
        (["--stage", "5", "--stop-stage", "3"], "comes after stop-stage"),
        (["--set", "asv_resemblyzer.params.methd=rocch"], "has no parameter 'methd'; did you mean 'method'?"),
        (["--set", "asv_resemblyzer.params.method=vpc24"], "evaluator 'asv_resemblyzer': unknown EER method"),
        (["--set", "nonsense=1"], "nothing is named 'nonsense' to set"),
    ],
)
def test_wrong_options_stop_before_any_work(root, options, message):
    done = run(root, *options)
    assert done.returncode == 2 and message in done.stdout + done.stderr
    assert not (root / "dump").exists()


@pytest.mark.parametrize("script", ["run.sh", "egs/vpc2024/run.sh"])
@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_help_of_a_recipe_lists_its_own_options(script, shell):
    shown = subprocess.run(
        [shell, REPOSITORY / script, "--help"], capture_output=True, text=True, check=True
    ).stdout
    assert ("--vpc-lists          folder of the organisers' lists" in shown) == (script != "run.sh")
    assert "--stop-stage" in shown and "\n\n\n" not in shown


def test_an_option_of_another_recipe_points_there():
    with pytest.raises(UserError, match=r"unknown option --vctk-lists; egs/vpc2024/run\.sh has it"):
        option_sets(["--vctk-lists", "x"], {})


def test_no_torch_for_the_check_of_the_cpu():
    code = "import sys; from espnet_musa.bin import plan; plan.check_jobs('utils/run.py', 'cpu')"
    code += "; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=False).returncode == 0


def test_a_device_is_looked_for_only_where_the_jobs_run(tmp_path, monkeypatch):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(UserError, match=r"--device cuda:1: .*expected cpu, or a GPU"):
        check_jobs("utils/run.py", "cuda:1")
    check_jobs("utils/slurm.py --partition gpu", "cuda:1")
    with pytest.raises(UserError, match="--device cudaa: "):
        check_jobs("utils/slurm.py --partition gpu", "cudaa")
    for cmd in ("utils/slrum.py", " ", str(tmp_path)):
        with pytest.raises(UserError, match="there is no"):
            check_jobs(cmd, "cpu")


def test_a_missing_recipe_is_one_clear_line(root):
    done = run(root, "--config", "foo.yaml")
    assert done.returncode == 2 and "no such --config" in done.stderr and "none" not in done.stderr
    assert not (root / "exp").exists()


def test_a_recipe_runs_in_its_own_directory(root, tmp_path_factory):
    """Wherever run.sh is called from."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    config = os.path.relpath(root / "conf/recipe.yaml", elsewhere)
    environment = {name: value for name, value in os.environ.items() if name != "CALLED_FROM"}
    done = subprocess.run(
        [REPOSITORY / "run.sh", "--config", config, "--stage=2", "--stop-stage=2", "--nj=1"],
        cwd=elsewhere, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert (root / "dump/s").is_dir() and not list(elsewhere.iterdir())


def corpora(root: Path, **options) -> str:
    """What stage 0 says about the corpora of a recipe."""
    recipe = Recipe("t", (), (), options, {"librispeech": "corpora.librispeech.root"})
    with pytest.raises(UserError) as error:
        check.check(recipe, root)
    return str(error.value)


def test_stage_0_checks_corpora_even_if_there_are_data(root):
    assert "unknown corpus 'librispech'; did you mean" in corpora(root, librispech={"root": None})
    assert "has no option 'rooot'; did you mean" in corpora(root, librispeech={"rooot": None})
    assert "no such directory; hint: --librispeech" in corpora(root, librispeech={"root": f"{root}/no"})
    (root / "empty").mkdir()
    both = {"root": str(root), "vpc_lists": f"{root}/empty"}
    hint = "hint: --set corpora.librispeech.vpc_lists="
    assert f"empty: an empty directory; {hint}" in corpora(root, librispeech=both)
    (root / "data").rename(root / "other")
    assert "no corpus is given; hint: one of --librispeech DIR" in corpora(root, librispeech={"root": None})
    assert "start with --stage format" in corpora(root)


def test_stages_by_number_and_name_with_dashes_and_underscores(root):
    done = run(root, "--stage=2", "--stop_stage", "format", "--nj", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(wavs(root / "dump/s")) == 4
    done = run(root, "--stage", "tokenize", "--stop-stage", "6")
    assert done.returncode == 0, done.stdout + done.stderr
    for text in (
        "learns from teacher tokens: nothing to do",
        "is trained: nothing to do",
        "is a variant of another",
    ):
        assert text in done.stdout
    assert wavs(root / "exp/b2_mcadams/data/s").keys() == wavs(root / "dump/s").keys()
    assert not (root / "exp/orig").exists()


def test_relative_paths_are_the_callers(root):
    (root / "here/LibriSpeech").mkdir(parents=True)
    done = run(root, "--stage", "0", "--stop-stage", "0", "--librispeech", "here")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{root}/here" in (root / "exp/recipe.yaml").read_text()


def test_failure_names_the_command_that_goes_on(root):
    (root / "data/s/utt2spk").write_text("a-0 a\r\n")
    done = run(root, "--stage", "2", "--nj", "1")
    assert done.returncode == 2
    assert "utt2spk:1: line ends with CR" in done.stderr
    assert "--nj 1 --stage format\n" in done.stdout and "--stage 2" not in done.stdout


@pytest.mark.skipif(shutil.which("flock") is None, reason="no flock on this machine")
def test_two_runs_do_not_share_a_recipe(root):
    (root / "exp").mkdir()
    with (root / "exp/.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = run(root, "--stage", "2", "--stop-stage", "2")
    assert done.returncode == 2 and "another run is at work" in done.stderr
    assert run(root, "--stage", "2", "--stop-stage", "2").returncode == 0


def test_read_only_output_is_one_clear_error(root):
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    run(root, "--stage", "2", "--stop-stage", "2")
    (root / "exp").chmod(0o555)
    done = run(root, "--stage", "5", "--stop-stage", "5")
    (root / "exp").chmod(0o755)
    assert done.returncode == 2 and "make it writable" in done.stdout + done.stderr


@pytest.mark.slow
def test_the_same_stage_through_slurm(root, slurm):  # noqa: F811
    assert run(root, "--stage", "2", "--stop-stage", "2").returncode == 0
    local = wavs(root / "dump/s")
    (root / "dump").rename(root / "dump-local")
    done = run(
        root,
        "--stage",
        "2",
        "--stop-stage",
        "2",
        "--nj",
        "2",
        "--cmd",
        "utils/slurm.py --partition main --mem 1G",
        **slurm,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert wavs(root / "dump/s") == local and len(local) == 4
