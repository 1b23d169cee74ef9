"""A classifier for your own images from trained weights, see docs/finetuning.md.

    xception-jax finetune --data=DATA --weights=imagenet

fits a head to the features of the frozen network. `--config.finetune.unfreeze=block13` then trains the network from
that part on, with the settings below. The better of the two on the validation split is kept.
"""

from ml_collections import ConfigDict, config_dict

from xception_jax.config import default


def get_config() -> ConfigDict:
    """Settings."""
    c = default()
    c.model.weights = "imagenet"
    c.batch_size = 32
    c.image_size = config_dict.placeholder(int)  # None: as the weights were trained, like all of the input
    c.data.crop_area = (0.25, 1.0)
    # After the head, if asked for.
    c.num_epochs = 10.0
    c.patience = 3
    c.fixed_statistics = True  # of the images that the weights were trained on: a batch of few would replace them
    c.optimizer.name = "adamw"
    c.optimizer.weight_decay = 0.05
    c.optimizer.part_decay = 0.8
    c.learning_rate = 0.0001
    c.schedule.name = "cosine"
    c.schedule.warmup = "50 steps"
    c.average_decay = 0.99
    c.log_every = "10 steps"
    c.checkpoint.best_metric = "loss"
    return c
