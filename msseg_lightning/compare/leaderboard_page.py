"""HTML page of a leaderboard, and all its files."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path

from markupsafe import Markup

from msseg_lightning.compare import leaderboard_table as table
from msseg_lightning.compare.leaderboard import MEASURES, Leaderboard, paragraphs
from msseg_lightning.compare.leaderboard_pictures import ALTERNATIVES, TITLE, pictures
from msseg_lightning.core.files import atomic_write
from msseg_lightning.core.outputs import IsOwnFile, is_text_with, refuse_overwrites
from msseg_lightning.core.problem import ExitCode, MssegError, Problem
from msseg_lightning.report import page

FOLDER = ("leaderboard.html", "leaderboard.md", "leaderboard.csv", "leaderboard.tex", "pairs.csv")
"""Files of a folder, besides the pictures."""

_OWN: Mapping[str, IsOwnFile] = {
    ".html": is_text_with(page.GENERATOR),
    ".md": is_text_with(table.MARKDOWN_MARK),
    ".csv": lambda path: (
        is_text_with(table.CSV_HEAD)(path) or is_text_with("measure,better,")(path)
    ),
    ".tex": is_text_with(table.LATEX_MARK),
    ".svg": is_text_with(TITLE),
}
"""Ending -> whether a file of that kind was written by an earlier call."""

HOW = (
    "Brackets hold 95 % bootstrap intervals over patients (bias-corrected and accelerated). A "
    "patient counts once, by the mean over its pairs and then over seeds, and is drawn with all of "
    "them. Patients with and without new lesions are never averaged together.",
    "Every two systems are compared on the same patients by random changes of sign of their paired "
    "differences. Holm's method keeps the chance of any false difference in a table at 5 %. "
    "Systems that share a letter under Group cannot be told apart; that is not a proof that they "
    "are equal.",
    "First is how often a system leads in the bootstrap samples, Ranks where its rank lies in 95 % "
    "of them. Found and False count lesions of patients with new lesions, as the mean over seeds. "
    "Minutes are of fitting all folds of one seed; runs on different machines differ in them.",
)

TRAIT_WORDS: Mapping[str, str] = {
    "size": "Lesions of all patients and seeds together, so that patients with many lesions weigh "
    "more; a predicted lesion counts by its own size.",
    "contrast": "Mean of the follow-up scan inside a lesion over the mean of a shell around it.",
    "region": "By the centre of a lesion in a template whose box was laid onto that of the brain: "
    "periventricular is within 10 mm of a ventricle, juxtacortical within 14 mm of the surface of "
    "the brain. Of simulated lesions 70 % get the region in which they were drawn.",
}
"""What the sections of lesions by size, contrast and region say."""


def page_of(
    board: Leaderboard, drawn: Mapping[str, str], further: Sequence[table.Section] = ()
) -> str:
    """The leaderboard as one HTML file that needs no network.

    Args:
        board: the leaderboard.
        drawn: name -> SVG text, from ``pictures``.
        further: sections at the end.
    """

    def images(*names: str) -> list[tuple[str, str]]:
        return [(ALTERNATIVES[name], _data(drawn[name])) for name in names if name in drawn]

    title = MEASURES[board.measure].title
    return page.document(
        "Leaderboard",
        [
            page.piece("leaderboard", paragraphs(board)),
            _section(
                "Patients with new lesions",
                [],
                table.with_lesions(board),
                images("intervals", "ranks"),
            ),
            _section("Patients without new lesions", [], table.without_lesions(board)),
            _section(
                "Raters",
                [
                    "Each rater as a system, against the voxels that more than half of the other "
                    "raters mark.",
                    *table.rater_words(board),
                ],
                table.raters(board),
            ),
            *(
                _section(f"Lesion F1 by {name}", [words], table.by_trait(board, name))
                for name, words in TRAIT_WORDS.items()
            ),
            *(page.piece("section", "Not recorded", [text]) for text in table.not_recorded(board)),
            _section(
                "Active patients",
                [
                    "Does a score tell patients with new lesions from patients without? Marked: at "
                    "least one lesion is predicted. Area: under the curve, how often a patient "
                    "with new lesions has the higher score, by the volume of the predicted lesions "
                    "or by the sum of the probabilities as a volume. Brackets: 95 % intervals "
                    "(Newcombe's method 5)."
                ],
                table.activity(board),
                images("activity"),
            ),
            _section(
                "Other lesion rules",
                [
                    "F1 and rank of the same masks under other published rules. Any overlap: one "
                    "shared voxel, as LTPR and LFPR. IoU: lesions matched one to one with at least "
                    "this intersection over union. Lesion by lesion: as official, but a detection "
                    "is compared with one lesion and not with all (after S13). Lesions up to the "
                    "volume limit do not count by any.",
                    *table.rule_words(board),
                ],
                table.by_rule(board),
            ),
            _section(
                "Sensitivity over false lesions per patient",
                [
                    "The score of a lesion is the mean probability inside it; the least score is "
                    "raised from the system's own threshold on. False lesions are of patients with "
                    "and without new lesions. The mean is over the columns, with its interval."
                ],
                table.froc(board),
                images("froc"),
            ),
            _section(
                "Cost, and figures of the papers",
                [
                    "Under Paper: what the system's paper reports, on other patients, by other "
                    "rules and with another budget (msseg show names the protocol). Costs are of "
                    "fitting all folds of one seed. A dash is what is not recorded."
                ],
                table.cost(board),
                images("cost"),
            ),
            _section(f"Pairs of systems: {title}", [], table.pairs(board)),
            *(_section(*section) for section in further),
            page.piece("section", "How to read the tables", HOW),
        ],
    )


def _section(
    title: str,
    words: Sequence[str],
    content: table.Table,
    images: Sequence[tuple[str, str]] = (),
) -> Markup:
    """A section with a sortable table; empty without rows."""
    heads, rows = content
    if not rows:
        return Markup("")
    body = page.text_table(heads, rows) + page.piece("pictures", images)
    return page.piece("section", title, words, body)


def _data(svg: str) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()


def check_output(output: Path, inputs: Sequence[Path]) -> None:
    """Refuse an output before anything is computed.

    Args:
        output: a folder, or a file of a known ending.
        inputs: files that are read.

    Raises:
        MssegError: the ending is unknown, or a file of somebody else would be overwritten (exit 2).
    """
    if (
        output.suffix
        and not output.is_dir()
        and output.suffix not in (".html", ".md", ".csv", ".tex")
    ):
        raise MssegError(
            Problem(
                "compare.output",
                "a leaderboard is not written in this format",
                file=output,
                field="--output",
                found=output.suffix,
                expected=".html, .md, .csv, .tex, or a folder for all of them",
                remedy=f"--output {output.with_suffix('.html')}",
                exit_code=ExitCode.CONFIG,
            )
        )
    files = [output] if _is_file(output) else [output / name for name in FOLDER]
    if not _is_file(output):
        files += [output / f"{name}.svg" for name in ALTERNATIVES]
    refuse_overwrites([(file, _OWN[file.suffix]) for file in files], inputs, "--output")


def write_leaderboard(
    board: Leaderboard, output: Path, further: Sequence[table.Section] = ()
) -> list[Path]:
    """Write one file, by its ending, or all of them into a folder; returns what was written.

    Args:
        board: the leaderboard.
        output: file or folder.
        further: sections at the end of the pages.
    """
    drawn = pictures(board) if output.suffix in (".html", "") or output.is_dir() else {}
    if _is_file(output):
        texts = {output: _text(board, output, drawn, (), further)}
    else:
        images = [f"{name}.svg" for name in drawn]
        texts = {output / name: _text(board, Path(name), drawn, images, further) for name in FOLDER}
        texts |= {output / f"{name}.svg": svg for name, svg in drawn.items()}
    for file, text in texts.items():
        with atomic_write(file) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return list(texts)


def _is_file(output: Path) -> bool:
    return bool(output.suffix) and not output.is_dir()


def _text(
    board: Leaderboard,
    file: Path,
    drawn: Mapping[str, str],
    images: Sequence[str],
    further: Sequence[table.Section],
) -> str:
    if file.name == "pairs.csv":
        return table.csv_pairs(board)
    if file.suffix == ".html":
        return page_of(board, drawn, further)
    if file.suffix == ".md":
        return table.markdown(board, images, further)
    return table.csv_table(board) if file.suffix == ".csv" else table.latex(board)
