"""What an evaluation says: plain sentences, and a curve of quality over size."""

import math
from collections.abc import Iterator

from embedgate.toolkit.evaluation import MAIN, TOLERABLE, Evaluation, Setting
from embedgate.toolkit.map_page import PALETTE
from embedgate.toolkit.pictures import new_figure, png_of

_KEPT = 0.9
"""Share of the ten nearest neighbours that must be kept where there are no questions."""
_SHARES = {2: "half the space", 3: "a third of the space", 4: "a quarter of the space"}


def conclusions(found: Evaluation) -> list[str]:
    """Plain sentences: the smallest setting of each model that is as good, how models compare, what cannot be told."""
    models = list(dict.fromkeys(each.model for each in found.settings))
    sentences = [sentence for model in models for sentence in _of_model(found, model)]
    if found.kind != "neighbours":
        sentences += [_of_models(found, each) for each in found.between_models]
    return sentences


def _of_model(found: Evaluation, model: str) -> Iterator[str]:
    reference, *smaller = [each for each in found.settings if each.model == model]
    smaller.sort(key=lambda each: each.bytes_per_million)
    if not smaller:
        return
    lead = f"{model}: " if len({each.model for each in found.settings}) > 1 else ""
    if found.kind == "neighbours":
        kept = [each for each in smaller if each.means["agreement@10"] >= _KEPT]
        best = kept[0] if kept else max(smaller, key=lambda each: each.means["agreement@10"])
        yield (
            f"{lead}{_named(best)} keeps {best.means['agreement@10'] * 10:.1f} of the 10 nearest neighbours, "
            f"{_share(best, reference)}." + ("" if kept else " No smaller setting keeps nine.")
        )
        return
    good = [each for each in smaller if each.verdict in ("no difference", "better")]
    unknown = [each for each in smaller if each.verdict == "too few to tell"]
    if good:
        yield (
            f"{lead}{_named(good[0])}: {_judged(good[0])} that these {found.n_questions:,} questions show, "
            f"{_share(good[0], reference)} ({_change(good[0])})."
        )
    elif not unknown:
        best = max(smaller, key=lambda each: each.means[MAIN])
        yield f"{lead}Every smaller setting is worse; {_named(best)} loses least ({_change(best)})."
    if unknown:
        yield f"{lead}{_too_few(found, unknown)}"


def _too_few(found: Evaluation, unknown: list[Setting]) -> str:
    """For the settings that are not seen to differ, and might all the same."""
    loss = max(each.possible_loss for each in unknown)
    n = found.n_questions
    needed = max(math.ceil(3 / TOLERABLE), math.ceil(n * (loss / TOLERABLE) ** 2 / 10) * 10)
    names = ", ".join(_named(each) for each in unknown)
    return (
        f"Too few questions to tell about {names}: with {n:,}, a loss of {loss:.2f} is not ruled out. "
        f"Ask about {needed:,}."
    )


def _of_models(found: Evaluation, each: Setting) -> str:
    first = found.settings[0].model
    if each.verdict == "too few to tell":
        return f"{each.model} against {first}: {_too_few(found, [each])}"
    verdict = {"no difference": "no difference", "worse": "worse", "better": "better"}.get(each.verdict, "")
    return f"{each.model} against {first}: {verdict} in these {found.n_questions:,} questions ({_change(each)})."


def _judged(each: Setting) -> str:
    return "no difference" if each.verdict == "no difference" else "a gain"


def _named(each: Setting) -> str:
    size = f"{each.dim} of {each.full_dim}" if each.dim < each.full_dim else f"All {each.dim}"
    return f"{size} as {each.encoding}"


def _change(each: Setting) -> str:
    low, high = each.difference_interval
    return f"{MAIN} {each.difference:+.3f}, {low:+.3f} to {high:+.3f}"


def _share(each: Setting, reference: Setting) -> str:
    parts = reference.bytes_per_million / each.bytes_per_million
    whole = round(parts)
    return (
        _SHARES.get(whole, f"1/{whole} of the space") if abs(parts - whole) < 0.01 else f"{1 / parts:.0%} of the space"
    )


def curve_png(found: Evaluation) -> bytes:
    """The picture: nDCG@10 with its interval over bytes per vector, a line for each model and encoding."""
    figure = new_figure(9, 5.5)
    axes = figure.subplots()
    lines = list(dict.fromkeys((each.model, each.encoding) for each in found.settings))
    for at, line in enumerate(lines):
        points = sorted(
            (each for each in found.settings if (each.model, each.encoding) == line), key=lambda each: each.dim
        )
        x = [each.bytes_per_million / 1_000_000 for each in points]
        y = [each.means[MAIN] for each in points]
        below = [max(0.0, each.means[MAIN] - each.intervals[MAIN][0]) for each in points]
        above = [max(0.0, each.intervals[MAIN][1] - each.means[MAIN]) for each in points]
        colour = PALETTE[at % len(PALETTE)]
        axes.errorbar(x, y, yerr=[below, above], marker="o", capsize=3, color=colour, label=", ".join(line))
        for each, left, top in zip(points, x, y, strict=True):
            axes.annotate(
                str(each.dim), (left, top), textcoords="offset points", xytext=(6, 6), fontsize=8, color=colour
            )
    axes.set(xscale="log", xlabel="bytes per vector", ylabel=f"{MAIN} with 95 % interval")
    ticks = sorted({each.bytes_per_million // 1_000_000 for each in found.settings})
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.minorticks_off()
    axes.grid(color="#e5e8ee")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    return png_of(figure)
