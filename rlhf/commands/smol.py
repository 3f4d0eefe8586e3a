"""`rlhf smol`: build a LLaVA around a pretrained language model."""

import random
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from rlhf.commands.command_line import command_line
from rlhf.commands.job import Job
from rlhf.commands.model_setup import load_model
from rlhf.data.records import DemonstrationRecord, read_records, write_records
from rlhf.demo.questions import Facts, write_split
from rlhf.demo.scenes import draw_scene, sample_scene
from rlhf.demo.smol.assemble import assemble_llava, find_gguf, read_gguf
from rlhf.demo.smol.vision_pretraining import pretrain_vision
from rlhf.demo.stamps.scenes import draw_stamp_scene, sample_stamp_scene, write_stamp_split
from rlhf.errors import UsageError
from rlhf.models.locations import locate_model
from rlhf.storage.atomic import make_directory
from rlhf.tracking.console import say, stage, track

_USAGE = "rlhf smol [PACKAGE.deb|DIRECTORY] output=DIRECTORY"


def smol(job: Job) -> dict[str, Any]:
    """Build a LLaVA around SmolLM2-135M-Instruct, align it by `rlhf sft`, merge it into `output`.

    The run directory holds the images (shapes, and stamps if their package is named), the prompts
    for later commands, and the model before alignment.

    Returns:
        Loss and number of demonstrations of the alignment, accuracy of vision tower and projector,
        the output and the seconds taken.
    """
    started, output = time.perf_counter(), _output(job)
    gguf, data = find_gguf(), job.run_dir / "data"

    def run(command: str, *overrides: str, files: tuple[Path, ...] = ()) -> tuple[Path, Any]:
        words = [*_shared_overrides(job), *overrides]
        return job.run_command(command, list(map(str, files)), words)

    stamps = data / "stamps" if job.files else None
    if stamps:
        run("stamps", f"output={stamps}", files=(job.files[0],))
    stage("drawing images, and writing questions about them")
    demonstrations = _write_data(job, data, stamps)
    stage("connecting SmolLM2 to a vision tower, and training the tower and the projector")
    tower_accuracy, projector_accuracy = _build(job, gguf, job.run_dir / "untrained", stamps)
    model = f"model.path={job.run_dir / 'untrained'}"
    sft_run, sft_metrics = run(
        "sft", model, "model.train=lora", f"data.demonstrations={demonstrations}"
    )
    run("export", "export.merge=true", f"output={output}", files=(sft_run,))
    prompts = f"data.prompts={data / 'preference.jsonl'}"
    words = ["experiment=smol", f"model.path={output}", prompts]
    say(f"next: {command_line('collect', words)}")
    return {
        **{name: sft_metrics[name] for name in ("loss", "demonstrations")},
        "quarters_told": tower_accuracy,
        "words_written": projector_accuracy,
        "output": str(output),
        "seconds": time.perf_counter() - started,
    }


def _output(job: Job) -> Path:
    """Return the output directory, which must not exist.

    Raises:
        UsageError: none is named, it exists, or more than one package is named.
    """
    if len(job.files) > 1:
        raise UsageError("more than one package is named", " ".join(map(str, job.files)), _USAGE)
    if not job.config.output:
        raise UsageError("no output directory is named", "output", _USAGE)
    if Path(job.config.output).exists():
        fix = "name a new directory: output=…"
        raise UsageError("the output exists already", job.config.output, fix)
    make_directory(Path(job.config.output).parent)
    return Path(job.config.output)


def _shared_overrides(job: Job) -> list[str]:
    """Return the overrides of every stage: this call's, after experiment=smol if none is chosen."""
    chosen = any(word.startswith("experiment=") for word in job.overrides)
    overrides = [word for word in job.overrides if not word.startswith("output=")]
    return [*([] if chosen else ["experiment=smol"]), *overrides]


def _write_data(job: Job, data: Path, stamps: Path | None) -> Path:
    """Write prompts and demonstrations: equal shares of shapes, stamp scenes and captions."""
    smol, seed = job.config.smol, job.config.seed
    count = smol.demonstrations // (3 if stamps else 1)
    options: Any = {"seed": seed, "per_image": 1, "demonstrate": True}
    records = _read(write_split(data, "shapes", count, **options))
    if stamps:
        scenes = write_stamp_split(data, "scenes", count, stamps_directory=stamps, **options)
        captions = [
            DemonstrationRecord(f"{stamps.name}/{r.image_path}", r.instruction, r.response, r.id)
            for r in _read(stamps / "captions.jsonl")
        ]
        random.Random(f"captions/{seed}").shuffle(captions)
        records += [*_read(scenes), *captions[:count]]
    write_split(data, "preference", smol.preference_images, per_image=2, seed=seed)
    write_split(data, "evaluation", smol.evaluation_images, per_image=2, seed=seed)
    write_records(data / "demonstrations.jsonl", records)
    return data / "demonstrations.jsonl"


def _read(file: Path) -> list[DemonstrationRecord]:
    return read_records(file, DemonstrationRecord)


def _build(job: Job, gguf: Path, directory: Path, stamps: Path | None) -> tuple[float, float]:
    """Write the LLaVA before alignment; return the accuracies of its vision tower and projector."""
    seed, smol = job.config.seed, job.config.smol
    language, tokenizer = read_gguf(gguf)
    assemble_llava(directory, language, tokenizer, seed=seed)
    model = replace(job.config.model, quantization="none")
    config = replace(job.config, device="cpu", dtype="float32", model=model)
    llava = load_model(config, locate_model(str(directory)))
    llava.model.model.vision_tower.requires_grad_(True)
    llava.model.model.multi_modal_projector.requires_grad_(True)
    lessons = _lessons(smol.lessons, seed, stamps)
    with track("vision tower, projector", 2 * smol.lesson_steps) as progress:
        tower_accuracy, projector_accuracy = pretrain_vision(
            llava.model,
            llava.processor,
            [image for image, _ in lessons],
            [facts for _, facts in lessons],
            steps=smol.lesson_steps,
            seed=seed,
            on_step=lambda done, total, loss: progress.advance(1, loss=loss),
        )
    say(
        f"the vision tower names {tower_accuracy:.1%} of the quarters, "
        f"the projector writes {projector_accuracy:.1%} of it"
    )
    llava.save(directory)
    return tower_accuracy, projector_accuracy


def _lessons(count: int, seed: int, stamps: Path | None) -> list[tuple[Image.Image, Facts]]:
    """Draw images with their facts: of shapes; with stamps, every second one is a stamp scene."""
    rng, lessons = random.Random(f"lessons/{seed}"), list[tuple[Image.Image, Facts]]()
    for number in range(count):
        if stamps and number % 2:
            scene = sample_stamp_scene(rng)
            lessons.append((draw_stamp_scene(scene, stamps), scene.facts()))
        else:
            shapes = sample_scene(rng)
            lessons.append((draw_scene(shapes), shapes.facts()))
    return lessons
