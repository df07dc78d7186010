"""The data-directory tools behind their Kaldi names in utils/: validate, fix, subset, split, combine, copy.

python -m espnet_musa.bin.datadir <verb> [options] ...

Directories that these tools make are sources: their wav.scp points to the audio of the directory they come from,
and no stamp of a stage is passed on. A destination that exists is replaced if it holds nothing but tables.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from .. import stamp
from ..data import ops
from ..data.datadir import CONTRACTS, DataDir, Meta, write_datadir
from ..data.repair import fix
from ..data.schema import FILES, OTHER
from ..data.table import write_text
from ..errors import Problems, UserError
from .common import run_verb

HOW = ("per-spk", "speakers", "first", "last", "shortest")
AFFIXES = ("spk-prefix", "utt-prefix", "spk-suffix", "utt-suffix")
ALL = 1000  # problems a validator lists: it does not stop at the first five
SHARE = "split{}{}"  # directory of the shares: split4, split4utt


def _say(text: str) -> None:
    print(text, file=sys.stderr)


# ----------------------------------------------------------------------------------------------------------
# Reading and writing


def _read(path: Path) -> tuple[DataDir, ops.Tables]:
    """A directory and its tables, trials and frame shift among them."""
    data = DataDir.read(path, required=("utt2spk",))
    tables = dict(data.tables)
    if (path / "trials").is_file():
        tables["trials"] = ops.read_trials(path / "trials")
    return data, tables


def _write(dest: Path, tables: ops.Tables, meta: Meta, sources: list[Path]) -> None:
    """Write a directory of tables under a temporary name, then put it in its place."""
    if dest.resolve() in {source.resolve() for source in sources}:
        raise UserError("source and destination are the same", path=dest)
    _check_replaceable(dest)
    new, old = (dest.with_name(f".{dest.name}.{suffix}") for suffix in ("new", "old"))
    for path in (new, old):
        shutil.rmtree(path, ignore_errors=True)
    write_datadir(new, tables, meta)
    shifts = {
        p.read_text(encoding="utf-8") for p in (source / "frame_shift" for source in sources) if p.is_file()
    }
    if len(shifts) > 1:
        shutil.rmtree(new)
        raise UserError("the directories have different frame shifts", path=sources[0] / "frame_shift")
    for shift in shifts:
        write_text(new / "frame_shift", shift)
    if dest.exists():
        dest.rename(old)
    new.rename(dest)
    shutil.rmtree(old, ignore_errors=True)


def _check_replaceable(dest: Path) -> None:
    """Refuse to replace audio, the output of a stage, or anything that is no data directory."""
    if not dest.exists():
        return
    if not dest.is_dir():
        raise UserError("exists and is no directory", path=dest)
    if stamp.read(dest) is not None:
        raise UserError("is the output of a stage and is not replaced", path=dest, hint="choose another name")
    for file in dest.iterdir():
        table = file.is_file() and (file.name in FILES or file.name in OTHER)
        if not table and not file.name.startswith((".backup", "split")):
            raise UserError(
                "would be lost; the destination holds more than tables", path=file, hint="move it away"
            )


def _count(tables: ops.Tables) -> str:
    return f"{len(tables['utt2spk'])} utterances of {len(set(tables['utt2spk'].values()))} speakers"


# ----------------------------------------------------------------------------------------------------------
# Verbs


def validate(args: argparse.Namespace) -> None:
    """Check a directory; lists all problems that can be seen at once."""
    required = ["utt2spk"]
    if args.contract == "source":
        required += [] if args.no_wav else ["wav.scp"]
        required += [] if args.no_text else ["text"]
    data = DataDir.read(args.dir, args.contract, required=required, shown=ALL)
    problems = Problems(ALL)
    if data.has("text") and not (args.non_print or args.no_text):
        for line, (utt, text) in enumerate(data.table("text").items(), start=1):
            if not text.isprintable():
                problems.add(
                    "unprintable character", path=args.dir / "text", line=line, utt=utt, hint="--non-print"
                )
    if (args.dir / "trials").is_file():
        known = set(data.utts)
        for line, (_, utt, _) in enumerate(ops.read_trials(args.dir / "trials"), start=1):
            if utt not in known:
                problems.add("is not in utt2spk", path=args.dir / "trials", line=line, utt=utt)
    problems.raise_if_any()
    _say(f"{args.dir}: valid ({args.contract}): {_count(data.tables)}")


def repair(args: argparse.Namespace) -> None:
    """Repair a source directory in place; the old files go to .backup/."""
    notes = fix(args.dir)
    for note in notes:
        _say(f"{args.dir}: {note}")
    for share in sorted(args.dir.glob("split*")) if notes else ():
        _say(f"{share}: made before this repair; split again")
    if not notes:
        _say(f"{args.dir}: nothing to repair")


def subset(args: argparse.Namespace) -> None:
    """<src> <n> <dest>, or with a list <src> <dest>: a part of a directory."""
    by_list = args.spk_list or args.utt_list
    if len(args.words) != (2 if by_list else 3):
        expected = "<src> <dest>" if by_list else "<src> <n> <dest>"
        args.fail(f"{len(args.words)} arguments; expected {expected}")
    source, dest = Path(args.words[0]), Path(args.words[-1])
    data, tables = _read(source)
    if args.utt_list:
        utts = ops.from_list(args.utt_list, data.utts, "utterance")
    elif args.spk_list:
        chosen = set(ops.from_list(args.spk_list, set(tables["utt2spk"].values()), "speaker"))
        utts = [utt for utt, spk in tables["utt2spk"].items() if spk in chosen]
    elif not args.words[1].isdigit():
        raise UserError(f"'{args.words[1]}' is no number of utterances", expected="<src> <n> <dest>")
    else:
        utts = ops.choose(tables, int(args.words[1]), next((h for h in HOW if getattr(args, h)), "spread"))
    part = ops.select(tables, utts)
    _write(dest, part, data.meta, [source])
    for name in sorted(tables.keys() - part.keys() - {"spk2utt"}):
        _say(f"{dest}: {name} is left out: nothing of it remains")
    _say(f"{dest}: {_count(part)}, of {_count(tables)}")


def split(args: argparse.Namespace) -> None:
    """Divide <dir> into <dir>/split<n>/<i>, or <dir>/split<n>utt/<i> if speakers may be divided."""
    data, tables = _read(args.dir)
    name = SHARE.format(args.n, "utt" if args.per_utt else "")
    shares = ops.shares(tables, args.n, per_utt=args.per_utt)
    new, old = (args.dir / f".{name}.{suffix}" for suffix in ("new", "old"))
    for path in (new, old):
        shutil.rmtree(path, ignore_errors=True)
    for number, utts in enumerate(shares, start=1):
        _write(new / str(number), ops.select(tables, utts), data.meta, [args.dir])
    if (args.dir / name).exists():
        (args.dir / name).rename(old)
    new.rename(args.dir / name)
    shutil.rmtree(old, ignore_errors=True)
    sizes = sorted(map(len, shares))
    _say(f"{args.dir / name}: {args.n} shares of {sizes[0]} to {sizes[-1]} utterances")


def combine(args: argparse.Namespace) -> None:
    """<dest> <src1> <src2> ...: the union of directories."""
    parts = [(path, *_read(path)) for path in args.sources]
    tables, notes = ops.combine([(path, tables) for path, _, tables in parts])
    meta = ops.combine_meta([(data.name, data.meta) for _, data, _ in parts])
    _write(args.dest, tables, meta, args.sources)
    for note in notes:
        _say(f"{args.dest}: {note}")
    _say(f"{args.dest}: {_count(tables)}")


def copy(args: argparse.Namespace) -> None:
    """<src> <dest>: the same directory, ids with prefixes and suffixes if asked for."""
    data, tables = _read(args.source)
    renamed = ops.rename(
        tables,
        utt=lambda name: f"{args.utt_prefix}{name}{args.utt_suffix}",
        spk=lambda name: f"{args.spk_prefix}{name}{args.spk_suffix}",
    )
    _write(args.dest, renamed, data.meta, [args.source])
    _say(f"{args.dest}: {_count(renamed)}")


# ----------------------------------------------------------------------------------------------------------
# Command line


def parser() -> argparse.ArgumentParser:
    """One sub-command for each tool, with Kaldi's options and order of arguments."""
    top = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = top.add_subparsers(required=True, metavar="verb")

    def add(verb, tool: str) -> argparse.ArgumentParser:
        sub = verbs.add_parser(
            tool.split("_")[0], prog=f"utils/{tool}", description=verb.__doc__, allow_abbrev=False
        )
        sub.set_defaults(verb=verb)
        return sub

    sub = add(validate, "validate_data_dir.sh")
    sub.add_argument(
        "--contract", choices=CONTRACTS, default="source", help="what to check (default: source)"
    )
    sub.add_argument(
        "--no-text", action="store_true", help="transcripts are not required, nor looked at closely"
    )
    sub.add_argument("--no-wav", action="store_true", help="wav.scp is not required")
    sub.add_argument("--non-print", action="store_true", help="text may hold unprintable characters")
    sub.add_argument("--no-feats", action="store_true", help="no effect: features are never required here")
    sub.add_argument(
        "--no-spk-sort", action="store_true", help="no effect: speakers need not sort like utterances"
    )
    sub.add_argument("dir", type=Path)

    add(repair, "fix_data_dir.sh").add_argument("dir", type=Path)

    sub = add(subset, "subset_data_dir.sh")
    how = sub.add_mutually_exclusive_group()
    for name, text in zip(HOW, _HOW_HELP, strict=True):
        how.add_argument(f"--{name}", dest=name, action="store_true", help=text)
    how.add_argument("--spk-list", type=Path, metavar="F", help="the speakers named in F")
    how.add_argument("--utt-list", type=Path, metavar="F", help="the utterances named in F")
    sub.add_argument("words", nargs="*", metavar="<src> [<n>] <dest>")
    sub.set_defaults(fail=sub.error)  # prints the usage

    sub = add(split, "split_data.sh")
    sub.add_argument("--per-utt", action="store_true", help="divide speakers too; writes split<n>utt")
    sub.add_argument("dir", type=Path)
    sub.add_argument("n", type=int)

    sub = add(combine, "combine_data.sh")
    sub.add_argument("dest", type=Path)
    sub.add_argument("sources", type=Path, nargs="+")

    sub = add(copy, "copy_data_dir.sh")
    for name in AFFIXES:
        sub.add_argument(f"--{name}", default="")
    sub.add_argument("source", type=Path)
    sub.add_argument("dest", type=Path)
    return top


_HOW_HELP = (
    "n utterances of each speaker",
    "whole speakers, until there are n utterances",
    "the first n utterances",
    "the last n utterances",
    "the n shortest utterances",
)


def main(argv: list[str]) -> None:
    """Run one tool."""
    words = []
    for (
        word
    ) in argv:  # an affix may begin with a dash (`--utt-suffix -rvb`), which argparse takes for an option
        if words and words[-1] in {f"--{name}" for name in AFFIXES}:
            words[-1] += f"={word}"
        else:
            words.append(word)
    args = parser().parse_args(words)
    args.verb(args)


if __name__ == "__main__":
    run_verb(main)
