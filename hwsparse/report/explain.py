"""What was done to a network, what that costs, and why it is faster: an artifact's manifest in sentences.

Everything that is said is in the manifest; where it holds no figure, there is no sentence. Knows no markup.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence

from hwsparse.artifact.manifest import ARRAY, LatencyFigure, Manifest, QualityFigure, noise_note
from hwsparse.pattern import NM, Block, Channel
from hwsparse.plan import Choice
from hwsparse.report import words

# Layers that are named, of those that gain most, and of those that do not ship as asked for the same reason.
NAMED = 3

_TYPES = {"int8": "bytes", "bfloat16": "bfloat16", "float16": "float16"}


def explain(manifest: Manifest) -> tuple[str, ...]:
    """Paragraphs of plain sentences, the most important first."""
    short = short_names([proof.name for proof in manifest.layers])
    found = (
        _speed(manifest),
        _quality(manifest),
        _changes(manifest),
        _why(manifest, short),
        _refusals(manifest, short),
    )
    return tuple(" ".join(sentences) for each in found if (sentences := list(each)))


def short_names(names: Sequence[str]) -> dict[str, str]:
    """The last parts of paths, as many as it takes to tell all apart."""
    parts = 1
    while True:
        short = {name: "/".join(name.split("/")[-parts:]) for name in names}
        if len(set(short.values())) == len(names) or parts > max(name.count("/") for name in names):
            return short
        parts += 1


def no_faster(manifest: Manifest) -> bool:
    """Whether a sparse network was timed, and gains nothing; intervals of what is predicted do not tell."""
    one, dense = manifest.latency, manifest.dense_latency
    if one is None or dense is None or "predicted" in (one.source, dense.source):
        return False
    return any(layer.shipped != "dense" for layer in manifest.layers) and one.interval_s[1] >= dense.interval_s[0]


def _speed(manifest: Manifest) -> Iterator[str]:
    threads = manifest.target.threads
    where = f"on {manifest.target.name}, {threads} thread{'s' if threads > 1 else ''}"
    one, dense = manifest.latency, manifest.dense_latency
    if one is None:
        yield f"{manifest.model.name} was compiled for {where[3:]}, and was not timed."
        return
    yield f"An inference of {manifest.model.name} takes {words.milliseconds(one.median_s)} {where}."
    rivals = (
        (dense, "the same network as it was, compiled in the same way"),
        (manifest.onnxruntime_latency, "onnxruntime, with the network as it was"),
    )
    for rival, name in rivals:
        if rival is not None:
            ratio = words.ratio(rival.median_s / one.median_s)
            yield f"That is {ratio} as fast as {name}, which takes {words.milliseconds(rival.median_s)}."
    yield _source(one)
    if no_faster(manifest):
        yield "It is not faster than the dense network beyond the noise: deploy that one."
    if note := noise_note((one, dense, manifest.onnxruntime_latency)):
        yield note


def _source(figure: LatencyFigure) -> str:
    if figure.source == "measured":
        return f"All were timed in turns in one run, {figure.samples} times each."
    if figure.source == "simulated":
        return "Cycles of the accelerator were counted by its simulator, and the host's part was timed."
    return "These times are predicted: it ran on no such device, and its outputs were not checked there."


def _quality(manifest: Manifest) -> Iterator[str]:
    ours, dense = manifest.quality, manifest.dense_quality
    if ours is None:
        yield "How good its answers are was not judged: no data were given."
        return
    name = words.metric_name(ours.metric)
    before = f" instead of {words.quality(ours.metric, dense.value)}" if dense is not None else ""
    yield (
        f"{name} on {ours.samples} {ours.split} samples of {ours.dataset} is {words.quality(ours.metric, ours.value)}"
        f"{before}."
    )
    yield _loss(ours)


def _loss(quality: QualityFigure) -> str:
    low, high = quality.drop_interval
    told, between = (
        words.change(quality.metric, -quality.drop),
        " to ".join(words.change(quality.metric, -end) for end in (high, low)),
    )
    if low > 0:
        return f"Sample by sample that is {told} ({between}): a real loss."
    if high < 0:
        return f"Sample by sample that is {told} ({between}): a real gain."
    return f"Sample by sample that is {told} ({between}): as far as these samples tell, nothing is lost."


def _changes(manifest: Manifest) -> Iterator[str]:
    chosen = [choice for _, choice in manifest.plan.choices]
    total = len(manifest.layers)
    if not chosen:
        yield f"None of its {total} prunable layers was changed."
        return
    yield f"Of its {total} prunable layers {len(chosen)} were changed{_left(total - len(chosen))}."
    by_form = defaultdict(list)
    for choice in chosen:
        by_form[str(choice.pattern), choice.dtype].append(choice)
    for choices in sorted(by_form.values(), key=len, reverse=True):
        yield _form(choices)


def _left(count: int) -> str:
    return f"; {count} {'is' if count == 1 else 'are'} as before" if count else ""


def _form(choices: Sequence[Choice]) -> str:
    """What layers of one pattern and type became."""
    count, first = len(choices), choices[0]
    who = f"{count} layer{'s have' if count > 1 else ' has'}"
    reads = f", and compute{'' if count > 1 else 's'} in {_TYPES[first.dtype]}" if first.dtype in _TYPES else ""
    if first.is_dense:
        return f"{who} all weights{reads}."
    ratios = sorted(choice.ratio for choice in choices)
    share = f"{ratios[0]:.0%}" if ratios[0] == ratios[-1] else f"{ratios[0]:.0%} to {ratios[-1]:.0%}"
    return f"{who} {share} of the weights removed, {_pattern(first)}{reads}."


def _pattern(choice: Choice) -> str:
    pattern = choice.pattern
    if isinstance(pattern, Block):
        return f"in blocks of {pattern.rows} outputs by {pattern.cols} input{'s' if pattern.cols > 1 else ''}"
    if isinstance(pattern, NM):
        shared = f", the same for {pattern.shared} outputs" if pattern.shared > 1 else ""
        return f"{pattern.m - pattern.n} of every {pattern.m} inputs{shared}"
    return "whole channels at a time" if isinstance(pattern, Channel) else "each on its own"


def _why(manifest: Manifest, short: Mapping[str, str]) -> Iterator[str]:
    """Where the time went that is saved: by layers that were timed both ways."""
    hosts = sum(proof.kernel != ARRAY for proof in manifest.layers)
    if hosts < len(manifest.layers):
        yield f"{len(manifest.layers) - hosts} layers run on the accelerator, {hosts or 'none'} on its host."
    gains = sorted(
        (
            (proof.dense_s - proof.sparse_s, f"{short[proof.name]} ({_from_to(proof.dense_s, proof.sparse_s)})")
            for proof in manifest.layers
            if proof.shipped != "dense" and proof.dense_s is not None and proof.sparse_s is not None
        ),
        reverse=True,
    )
    saved = sum(gain for gain, _ in gains)
    if saved <= 0:
        return
    yield f"It is faster because {_reasons(manifest)}: layer by layer that saves {words.milliseconds(saved)}."
    best = gains[:NAMED]
    share = sum(gain for gain, _ in best) / saved
    yield f"The most is gained by {_listed([name for _, name in best])}: {share:.0%} of it together."


def _from_to(before_s: float, after_s: float) -> str:
    return f"{words.milliseconds(before_s)} to {words.milliseconds(after_s)}"


def _reasons(manifest: Manifest) -> str:
    choices = [choice for _, choice in manifest.plan.choices]
    zeros = "zeros are neither stored, nor loaded, nor multiplied"
    bits = "numbers of fewer bits are loaded faster and multiplied more at once"
    found = (zeros, any(not each.is_dense for each in choices)), (bits, any(each.dtype in _TYPES for each in choices))
    return ", and because ".join(reason for reason, true in found if true)


def _refusals(manifest: Manifest, short: Mapping[str, str]) -> Iterator[str]:
    """What was asked and not done, by reason."""
    refused = [proof for proof in manifest.layers if proof.refused is not None]
    if not refused:
        return
    yield f"{len(refused)} layer{'s do' if len(refused) > 1 else ' does'} not ship as asked."
    for reason, count in Counter(proof.refused for proof in refused).most_common():
        names = [short[proof.name] for proof in refused if proof.refused == reason]
        more = f" and {count - NAMED} more" if count > NAMED else ""
        yield f"{', '.join(names[:NAMED])}{more}: {reason}."


def _listed(parts: Sequence[str]) -> str:
    """As in `a`, `a and b`, `a, b and c`."""
    *some, last = parts
    return f"{', '.join(some)} and {last}" if some else last
