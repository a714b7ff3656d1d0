"""Writes what was measured into docs/measure.md: the tables between its marks, and pictures.

The words around the marks are written by hand and left as they are. Each table says where and when
it was measured and by which command; what was not run is told. It measures nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median
from typing import Any

import click

from bench import picture
from bench.environment import RESULTS, ROOT, Result, load

PAGE = ROOT / "docs" / "measure.md"
QUIET_LOAD_MAX = 0.5  # processes, the mean of the minute before
BEGIN, END = "<!-- measured: {} -->", "<!-- end: {} -->"
WHERE = ("--out", "--dir")
FACTS = ("date", "commit", "processor", "cores", "memory", "kernel", "file_system", "python",
         "lmdb", "uvloop", "compiler", "sync", "load_before")  # fmt: skip


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A Markdown table; all but the first column to the right."""
    lines = [head, tuple(["---"] + ["---:"] * (len(head) - 1)), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def where(result: Result) -> str:
    """The machine, the date and the command, in two lines."""
    facts = result.environment
    told = "; ".join(
        f"{name.replace('_', ' ')} {facts[name]}" for name in FACTS if facts.get(name)
    )
    busy = float(facts["load_before"].split()[0]) > QUIET_LOAD_MAX
    warning = "**Provisional: others used this machine meanwhile.** " if busy else ""
    return f"{warning}`{plain(result.command)}`, {result.seconds:.0f} s. {told}."


def plain(command: str) -> str:
    """A command without what only says where its results went."""
    words = command.split()
    skipped = {at + more for at, word in enumerate(words) if word in WHERE for more in (0, 1)}
    return " ".join(word for at, word in enumerate(words) if at not in skipped)


def cpu(us: float) -> str:
    """A dash where what was taken off for registering was more than what was left."""
    return f"{us:.2f}" if us > 0 else "-"


def ms(ns: float) -> str:
    return f"{ns / 1e6:,.1f}"


# ---- tables -------------------------------------------------------------------------------------


def curve(result: Result, images: Path) -> str:
    figures = result.figures
    closed, opened = figures["closed"], figures["open"]
    each = f"{figures['seconds_each']:g} s each, {figures['accounts']:,} accounts"
    picture.throughput(images / "throughput.png", closed, f"closed loop, {each}")
    picture.latency(images / "latency.png", opened, f"open loop, one payment a request, {each}")
    picture.disk(images / "disk.png", closed, f"closed loop, {each}")
    head = ("a request", "connections", "payments/s", "p50 ms", "p99 ms", "p99.9 ms",
            "server µs", "client µs", "disk bytes")  # fmt: skip
    rows = [_point(one) for one in (*closed, figures["sessions"])]
    open_head = ("due/s", "of the most", "done/s", "p50 ms", "p99 ms", "p99.9 ms", "worst ms",
                 "never sent")  # fmt: skip
    open_rows = [
        (
            f"{one['rate']:,.0f}", f"{one['share']:.0%}", f"{one['payments_per_second']:,.0f}",
            ms(one["p50_ns"]), ms(one["p99_ns"]), ms(one["p99_9_ns"]), ms(one["max_ns"]),
            f"{one['overdue']:,}",
        )
        for one in opened
    ]  # fmt: skip
    left_out = "; ".join(figures["left_out"])
    parts = [
        where(result), table(head, rows),
        "![Payments a second over connections](images/throughput.png)",
        "Open loop, one payment a request from 1,000 sessions over 50 connections or as many as"
        " asked for; a latency counts from when its payment was due:",
        table(open_head, open_rows), "![Latencies in the open loop](images/latency.png)",
        "![Disk for each payment](images/disk.png)",
    ]  # fmt: skip
    if left_out:
        parts.append(f"Left out: {left_out}.")
    return "\n\n".join(parts)


def _point(one: dict[str, Any]) -> tuple[str, ...]:
    sessions = f" of {one['sessions']} sessions" if one["sessions"] > 1 else ""
    return (
        f"{one['batch']:,}", f"{one['connections']:,}{sessions}",
        f"{one['payments_per_second']:,.0f}", ms(one["p50_ns"]), ms(one["p99_ns"]),
        ms(one["p99_9_ns"]), cpu(one["server_cpu_us"]), cpu(one["client_cpu_us"]),
        f"{one['disk_bytes']:,.0f}",
    )  # fmt: skip


def ceiling(result: Result, images: Path) -> str:
    shapes = result.figures["shapes"]
    picture.budget(images / "budget.png", shapes, "processor time of a payment, by part")
    parts = [where(result)]
    head = ("part", "ns a payment", "its limit", "ns a payment", "share of the limit")
    for shape in shapes:
        rows = [
            (one["part"], f"{one['ns']:,.1f}", one["limit"], f"{one['limit_ns']:,.1f}",
             f"{one['share']:.0%}")
            for one in shape["parts"]
        ]  # fmt: skip
        parts += [f"**{shape['shape']}**", table(head, rows), _whole(shape)]
    parts += ["Look-ups by id, and the journal by the size of a group:", _others(result.figures)]
    parts += ["![Where the time of a payment goes](images/budget.png)"]
    return "\n\n".join(parts)


def _whole(shape: dict[str, Any]) -> str:
    whole = shape["whole"]["payments_per_second"]
    limits = sorted(shape["limits"].items(), key=lambda item: item[1])
    told = "; ".join(f"{name} {most:,.0f}" for name, most in limits)
    return (
        f"The whole path ({shape['client']}): {whole:,.0f} payments/s, {shape['share']:.0%} of the"
        f" lowest limit, which is {shape['bound']}. Limits, payments/s: {told}."
    )


def _others(figures: dict[str, Any]) -> str:
    rows = [
        (f"look-up in a history of {one['transfers']:,}", f"{one['ns']:,.1f} ns",
         f"{one['limit']}: {one['limit_ns']:,.1f} ns", f"{one['share']:.0%}")
        for one in figures["lookups"]
    ] + [
        (f"append of {one['kib']:,} KiB", f"{ms(one['ns'])} ms",
         f"{one['limit']}: {ms(one['limit_ns'])} ms", f"{one['share']:.0%}")
        for one in figures["append"]
    ]  # fmt: skip
    return table(("part", "ours", "its limit", "share of the limit"), rows)


def budget(result: Result, images: Path) -> str:
    head = ("µs of one core a payment", *(one["shape"] for one in result.figures["shapes"]))
    shapes = result.figures["shapes"]
    rows: list[tuple[str, ...]] = [
        (part, *(f"{one['budget'][part]:.3f}" for one in shapes)) for part in picture.PARTS
    ]
    rows += [
        ("sum of the parts", *(f"{sum(one['budget'].values()):.3f}" for one in shapes)),
        ("seen: the server's process", *(f"{one['server_us']:.3f}" for one in shapes)),
        ("seen: the client's process", *(f"{one['client_us']:.3f}" for one in shapes)),
        ("between the parts (seen less sum)", *(
            f"{one['server_us'] + one['client_us'] - sum(one['budget'].values()):+.3f}"
            for one in shapes
        )),
    ]  # fmt: skip
    return f"{where(result)}\n\n{table(head, rows)}"


def peers(result: Result, images: Path) -> str:
    figures, parts = result.figures, [where(result)]
    parts += [f"Not installed there, so not compared: {told}." for told in figures["missing"]]
    if "tigerbeetle" in figures:
        found = figures["tigerbeetle"]
        parts += [f"TigerBeetle {found['version']}, `{found['server']}`:", _pairs(found["rows"])]
        parts += ["\n".join(f"* `{row['command']}`" for row in found["rows"])]
    if "postgresql" in figures:
        found = figures["postgresql"]
        settings = ", ".join(f"{name} = {value}" for name, value in found["settings"].items())
        parts += [
            f"PostgreSQL, `{found['statement']}`, {found['client']}; ours: {found['our_client']}."
            f" {settings}.",
            _pairs(found["rows"]),
        ]
    return "\n\n".join(parts)


def _pairs(rows: list[dict[str, Any]]) -> str:
    head = ("load", "ours/s", "theirs/s", "ratio", "ratio in each pair", "goal", "guide/s",
            "p99 ms", "worst ms")  # fmt: skip
    return table(
        head,
        (
            (
                row["load"], f"{row['ours_median']:,.0f}", f"{row['theirs_median']:,.0f}",
                f"{row['ratio_median']:.1f}", " · ".join(f"{one:.1f}" for one in row["ratios"]),
                f"≥ {row['ratio_goal']:g}" if "ratio_goal" in row else "-",
                f"≥ {row['guide_per_second']:,}" if "guide_per_second" in row else "-",
                _latencies(row, "99"), _latencies(row, "100"),
            )
            for row in rows
        ),
    )  # fmt: skip


def _latencies(row: dict[str, Any], share: str) -> str:
    """Ours to theirs, medians of the runs; a dash where the benchmark did not print them."""
    found = [
        [run["latency_ms"][share] for run in row[side] if share in run.get("latency_ms", ())]
        for side in ("ours", "theirs")
    ]
    return " : ".join(f"{median(side):g}" for side in found) if all(found) else "-"


def scale(result: Result, images: Path) -> str:
    return _scale(result, images / "scale.png")


def scale_accounts(result: Result, images: Path) -> str:
    return _scale(result, images / "scale-accounts.png")


def _scale(result: Result, image: Path) -> str:
    figures = result.figures
    told = f"{figures['transfers']:,} payments between {figures['accounts']:,} accounts"
    ids = f"{figures['id_order']} ids, {figures['hot_share']:.0%} of the payments to one account"
    picture.scale(image, figures["slices"], f"{told}, {ids}")
    rows = [
        (one["figure"], one["told"], one["goal"] or "-",
         "-" if one["goal"] is None else "yes" if one["met"] else "**no**")
        for one in figures["goals"]
    ]  # fmt: skip
    asks = [
        (one["ask"], f"{one['records']:,}", f"{one['asked']:,}", ms(one["p50_ns"]),
         ms(one["p99_ns"]), ms(one["max_ns"]), f"{one['unanswered']:,}")
        for one in figures["asks"]
    ]  # fmt: skip
    payers = [
        (one["beside"], f"{one['payments_per_second']:,.0f}", ms(one["p50_ns"]),
         ms(one["p99_ns"]), ms(one["p99_9_ns"]), ms(one["max_ns"]), f"{one['overdue']:,}")
        for one in figures["payers"]
    ]  # fmt: skip
    payments = figures["growth"]["payments"]
    columns = "; ".join(
        f"{name} {size / payments:,.1f}" for name, size in figures["growth"]["columns"].items()
    )
    parts = [
        where(result), f"{told}, {ids}:", table(("figure", "found", "goal", "met"), rows),
        f"![Rate, latencies, memory and disk over the history](images/{image.name})",
        f"Derived bytes a payment, by column: {columns}.",
    ]  # fmt: skip
    if asks:
        parts += [
            "Asked one after the other, beside payments at half of that rate:",
            table(("question", "records", "asked", "p50 ms", "p99 ms", "worst ms", "unanswered"),
                  asks),
            "These payments, in an open loop:",
            table(("beside", "done/s", "p50 ms", "p99 ms", "p99.9 ms", "worst ms", "never sent"),
                  payers),
        ]  # fmt: skip
    if figures["restarts"]:
        parts.append(_restarts(figures["restarts"]))
    if "stopped" in figures:
        parts.append(f"**Stopped early**: {figures['stopped']}.")
    return "\n\n".join(parts)


def _restarts(restarts: list[dict[str, Any]]) -> str:
    head = ("restart after", "files", "listens, s", "has answered, s", "memory then, GiB")
    rows = []
    for one in restarts:
        runs = one["runs"]
        listening, answered = (
            " · ".join(f"{run[name]:.2f}" for run in runs)
            for name in ("listening_seconds", "answered_seconds")
        )
        memory = max(run["rss_anon_bytes"] for run in runs) / 2**30
        rows.append((one["after"], one["cache"], listening, answered, f"{memory:.2f}"))
    return table(head, rows)


def parts(path: Path) -> str:
    """What `make bench` found, from the JSON of pytest-benchmark."""
    found = json.loads(path.read_text())
    rows = []
    for one in found["benchmarks"]:
        unit, rate = next(iter(one["extra_info"].items()), ("", 0))
        stats = one["stats"]
        rows.append(
            (f"{one['group']}: {one['name'].removeprefix('test_').replace('_', ' ')}",
             f"{stats['median'] * 1e3:,.3f}", f"{stats['iqr'] * 1e3:,.3f}", f"{rate:,} {unit}")
        )  # fmt: skip
    cores = found["machine_info"]["cpu"]["count"]
    told = f"`make bench-full`, {found['datetime'][:16]} UTC, {cores} cores."
    return f"{told}\n\n{table(('part', 'median ms', 'iqr ms', 'rate'), rows)}"


SECTIONS: dict[str, tuple[str, Callable[[Result, Path], str]]] = {
    "peers": ("peers", peers),
    "curve": ("curve", curve),
    "ceiling": ("ceiling", ceiling),
    "budget": ("ceiling", budget),
    "scale": ("scale", scale),
    "scale-accounts": ("scale-accounts", scale_accounts),
}


def render(page: str, results: Path, images: Path) -> str:
    """The page with everything measured that `results` holds between its marks."""
    for name, (file, section) in SECTIONS.items():
        result = load(results / f"{file}.json")
        if result is not None:
            page = between(page, name, section(result, images))
    if (results / "parts.json").exists():
        page = between(page, "parts", parts(results / "parts.json"))
    return page


def between(page: str, name: str, text: str) -> str:
    """The page with `text` between the marks of `name`. ValueError when it has none."""
    begin, end = BEGIN.format(name), END.format(name)
    before, found, rest = page.partition(begin)
    _, ended, after = rest.partition(end)
    if not found or not ended:
        raise ValueError(f"the page has no marks {begin} and {end}")
    return f"{before}{begin}\n\n{text}\n\n{end}{after}"


@click.command()
@click.option(
    "--from", "results", type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=RESULTS, show_default="build/bench", help="Where the results are.",
)  # fmt: skip
@click.option(
    "--page", type=click.Path(dir_okay=False, path_type=Path), default=PAGE,
    show_default="docs/measure.md", help="The page to write into.",
)  # fmt: skip
def main(results: Path, page: Path) -> None:
    """Write the tables and the pictures of docs/measure.md from the results."""
    text = render(page.read_text(encoding="utf-8"), results, page.parent / "images")
    page.write_text(text, encoding="utf-8")
    click.echo(f"wrote {page.name} and {len(list((page.parent / 'images').glob('*.png')))} images")


if __name__ == "__main__":
    main()
