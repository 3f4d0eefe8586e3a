"""Train a reward model on pairs, measure it on others, and compare models by it.

python reward_model.py MODEL RUN_DIR
"""

import sys

from PIL import Image

import rlhf

COLOURS = ("red", "green", "blue", "yellow", "black", "white", "gray", "orange")


def pairs(colours):
    """Images of one colour; the response that names it is the better one."""
    for image, other in zip(colours, (*colours[1:], colours[0]), strict=True):
        for size in (40, 48, 56, 64):
            yield {
                "image": Image.new("RGB", (size, size), image),  # or the path of a file
                "instruction": "Which colour is it?",
                "chosen": f"It is {image}.",
                "rejected": f"It is {other}.",
            }


def main(model_path, run_dir):
    model = rlhf.load_model(model_path)
    config = rlhf.RewardConfig(train="lora", epochs=4, batch_size=8, lr=1e-3, warmup_steps=2)
    trainer = rlhf.RewardTrainer(
        rlhf.build_reward_model(model, config),
        rlhf.Preferences.from_list(pairs(COLOURS[:6])),
        config,
        validation=rlhf.Preferences.from_list(pairs(COLOURS[6:])),
        run_dir=run_dir,
    )
    for metrics in trainer:
        print({name: round(metrics[name], 3) for name in ("reward/loss", "reward/accuracy")})

    reward = rlhf.load_reward(trainer.save())
    prompts = rlhf.Prompts.from_list(
        {"image": Image.new("RGB", (48, 48), colour), "instruction": "Which colour is it?"}
        for colour in COLOURS
    )
    sampling = rlhf.SamplingConfig(max_new_tokens=8)
    print(rlhf.evaluate({"base": rlhf.load_model(model_path)}, prompts, reward, sampling=sampling))


if __name__ == "__main__":
    main(*sys.argv[1:])
