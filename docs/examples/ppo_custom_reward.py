"""PPO against two rewards of one's own: python ppo_custom_reward.py MODEL IMAGES RUN_DIR."""

import sys

import rlhf

COLOURS = ("red", "green", "blue", "yellow", "black", "white")


def colourful(images, instructions, responses):
    return [sum(colour in response.lower() for colour in COLOURS) for response in responses]


def brief(images, instructions, responses):
    return [-len(response.split()) / 10 for response in responses]


class Longest(rlhf.Callback):
    def on_rollout(self, trainer, rollout):
        trainer.log({"user/longest": rollout.spans.max_len})


def main(model_path, image_dir, run_dir):
    config = rlhf.PPOConfig(iterations=4, rollout_batch_size=16, minibatch_size=8, lr=1e-4)
    sampling = rlhf.SamplingConfig(max_new_tokens=16)
    model = rlhf.load_model(model_path)
    policy = rlhf.Policy.from_model(model, config)
    reward = 0.7 * rlhf.RewardFunction(colourful) + 0.3 * rlhf.RewardFunction(brief)
    prompts = rlhf.Prompts.from_directory(image_dir, "What do you see?")
    more = {"sampling": sampling, "callbacks": [Longest()], "run_dir": run_dir}
    trainer = rlhf.PPOTrainer(policy, reward, prompts, config, **more)
    for metrics in trainer:
        print({name: x for name, x in metrics.items() if name.startswith(("scores/", "user/"))})
    print(rlhf.generate(rlhf.load_model(trainer.save()), prompts, sampling)[:3])


if __name__ == "__main__":
    main(*sys.argv[1:])
