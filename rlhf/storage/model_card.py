"""Write model cards: what a directory holds, its base model, and how Transformers loads it."""

from collections.abc import Mapping
from pathlib import Path

from rlhf.storage.atomic import replaced_file

_MODEL = """\
from transformers import AutoModelForImageTextToText, AutoProcessor

model = AutoModelForImageTextToText.from_pretrained("DIRECTORY")
processor = AutoProcessor.from_pretrained("DIRECTORY")"""
_ADAPTER = """\
from peft import PeftModel
from transformers import AutoModelForImageTextToText, AutoProcessor

base = AutoModelForImageTextToText.from_pretrained("{base}")
model = PeftModel.from_pretrained(base, "DIRECTORY")
processor = AutoProcessor.from_pretrained("{base}")"""
_CARD = """\
---
base_model: {base}
library_name: {library}
pipeline_tag: image-text-to-text
tags: [rlhf, llava{lora}]
---

# {title}

Made from `{base}` by `rlhf {command}`; replace DIRECTORY by the path of this directory:

```python
{loading}
```

| metric | value |
|---|---|
{rows}
"""


def write_model_card(
    directory: Path, base: str, *, command: str, metrics: Mapping[str, object]
) -> None:
    """Write README.md in a directory that holds a model or a LoRA adapter.

    Args:
        directory: the saved model; with an `adapter_config.json` it is an adapter.
        base: name or path of the base model.
        command: the command that made it: sft, ppo, reward or export.
        metrics: what the command measured, by name.

    Raises:
        ResourceError: it cannot be written.
    """
    adapter = (directory / "adapter_config.json").is_file()
    rows = [f"| {name} | {_format_metric(value)} |" for name, value in metrics.items()]
    text = _CARD.format(
        base=base,
        library="peft" if adapter else "transformers",
        lora=", lora" if adapter else "",
        title=f"{'A LoRA adapter' if adapter else 'A model'} by `rlhf {command}`",
        command=command,
        loading=_ADAPTER.format(base=base) if adapter else _MODEL,
        rows="\n".join(rows),
    )
    with replaced_file(directory / "README.md") as file:
        file.write(text.encode())


def _format_metric(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
